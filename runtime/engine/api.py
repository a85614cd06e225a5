"""What the engine needs from the rest of the runtime, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``; total is 0 when it is not known."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A `Progress` for those who do not care."""


class Freezer(Protocol):
    """The part of a container's cgroups that the engine uses."""

    @property
    def frozen(self) -> bool:
        """Whether the cgroup is frozen."""

    def begin_freeze(self) -> None:
        """Stop every task of the cgroup, without waiting for all of them to have stopped."""

    def thaw(self) -> None:
        """Let every task of the cgroup go on."""

    def pids(self) -> list[int]:
        """Processes of the cgroup, as our pid namespace sees them."""


@dataclass(frozen=True, slots=True)
class StdioIdentity:
    """Which file a standard descriptor of the container is: device, inode and a description.

    Two descriptors are the same when device and inode are: a pipe, a terminal or a file that the
    container was given when it was created, and that a restore gives anew.
    """

    device: int
    inode: int
    description: str


@dataclass(frozen=True, slots=True)
class DumpTarget:
    """A container, as the engine sees it.

    Attributes:
        container_id: For the image and for messages.
        init_pid: The container's init in our pid namespace.
        cgroups: To freeze it.
        spec: Its OCI configuration.
        overlay_upper: Directory that holds what the container changed, or None.
        stdio: Identities of descriptors 0 to 2 as the container was given them; None for none.
        metadata: Stored in the image for the runtime's own use.
        mounts: (point, type) of the mounts when the container was created; None if not known.
    """

    container_id: str
    init_pid: int
    cgroups: Freezer
    spec: dict[str, Any]
    overlay_upper: Path | None
    stdio: Sequence[StdioIdentity | None]
    metadata: dict[str, Any] = field(default_factory=dict)
    mounts: Sequence[tuple[str, str]] | None = None


@dataclass(slots=True)
class DumpReport:
    """What a dump did; times in nanoseconds.

    Attributes:
        freeze_ns: Until every task had stopped.
        collect_ns: Looking at tasks, descriptors and mappings.
        write_ns: Writing contents.
        frozen_ns: From the freeze to the thaw or the end; 0 while it lasts.
        tasks: Threads.
        processes: Processes, zombies included.
        memory_bytes: Private and shared memory that went into the image.
    """

    freeze_ns: int = 0
    collect_ns: int = 0
    write_ns: int = 0
    frozen_ns: int = 0
    tasks: int = 0
    processes: int = 0
    memory_bytes: int = 0
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class RestoreReport:
    """What a restore did; times in nanoseconds."""

    tasks_ns: int = 0
    memory_ns: int = 0
    total_ns: int = 0
    tasks: int = 0
    processes: int = 0
    memory_bytes: int = 0
    warnings: list[str] = field(default_factory=list)


class Init(Protocol):
    """A fresh sandbox whose init waits to become the stub."""

    pid: int

    def go(self) -> None:
        """Let it execute the stub."""
