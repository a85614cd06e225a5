"""Letting a created container's init go on to its program."""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path

from runtime.errors import ContainerError
from runtime.metadata import Metadata
from runtime.monitor_client import MonitorClient, MonitorGoneError

EXEC_FIFO = "exec.fifo"
_RELEASE_TIMEOUT_MS = 10_000


def release_init(directory: Path, metadata: Metadata) -> None:
    """Let the init go on to the program, and wait until it has become that.

    Raises:
        HookError: A startContainer hook failed.
        ContainerError: The program could not be executed, or the init died before.
    """
    with contextlib.ExitStack() as stack:
        monitor = None
        # Connected before, as the monitor ends with a program that ends at once.
        with contextlib.suppress(MonitorGoneError):
            monitor = stack.enter_context(MonitorClient(directory))
        _open_fifo(directory / EXEC_FIFO, metadata)
        if monitor is None:
            return  # the init tells its supervisor, on standard error
        with contextlib.suppress(MonitorGoneError):  # killed; whether the program runs can be seen
            monitor.request("started")


def _open_fifo(fifo: Path, metadata: Metadata) -> None:
    """Open the other end of the FIFO that the init waits at.

    Raises:
        ContainerError: The init died instead of going on.
    """
    assert metadata.init is not None
    pidfd = metadata.init.open()
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        if poll.poll(_RELEASE_TIMEOUT_MS) and not os.read(reader, 1):
            raise ContainerError(f"the init of container {metadata.id!r} died before its program")
        # Nobody came to the FIFO: an earlier `start` released the init and was killed.
        fifo.unlink()
    finally:
        os.close(reader)
        os.close(pidfd)
