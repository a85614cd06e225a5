"""A program of the engine's in place of the user's: the seed of a restored container."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

CHANNEL_FD = 1000  # where the stub finds its channel
CONSOLE_FD = 1001  # and the slave of the container's terminal, if it has one


class RestoreStub(NamedTuple):
    """What the init executes when a container is restored.

    Attributes:
        elf_fd: A static program in a memfd.
        channel_fd: Given to it as descriptor ``CHANNEL_FD``.
        monotonic_offset_ns: Added to the host's CLOCK_MONOTONIC in the new time namespace.
        boottime_offset_ns: The same for CLOCK_BOOTTIME.
        before_hooks: Called with the init's pid when its namespaces stand, before any hook has
            connected them with the outside.
        devices: The st_dev that the root and tmpfs mounts shall have if possible, by their path.
    """

    elf_fd: int
    channel_fd: int
    monotonic_offset_ns: int = 0
    boottime_offset_ns: int = 0
    before_hooks: Callable[[int], None] = lambda pid: None
    devices: Mapping[str, int] = {}
