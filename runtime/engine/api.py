"""What the engine needs from the rest of the runtime, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from runtime.engine.network_hold import NetworkHold

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``; total is 0 when it is not known."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A `Progress` for those who do not care."""


class Freezer(Protocol):
    """The part of a container's cgroups that the engine uses."""

    @property
    def frozen(self) -> bool:
        """Whether the cgroup is frozen."""

    def freeze(self, timeout_s: float = ...) -> None:
        """Stop every task of the cgroup where it is; ContainerError when that takes too long."""

    def begin_freeze(self) -> None:
        """Stop every task of the cgroup, without waiting for all of them to have stopped."""

    def directories_by_hierarchy(self) -> dict[str, Path]:
        """The container's cgroups by hierarchy, as /proc/PID/cgroup calls these."""

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
class CheckpointOptions:
    """What a caller allows although the program may notice it; named as in runc and CRIU.

    Attributes:
        tcp_established: Save TCP connections to peers outside of the container.
        tcp_close: Such connections come back closed.
        tcp_skip_in_flight: Leave out connections from outside that are not yet accepted.
        ext_unix_sk: Save UNIX sockets whose peer is outside.
        file_locks: Save locks on files that programs outside can lock too.
        link_remap: Give a removed file that still has another name a temporary one.
        shell_job: Save terminals that came from outside; a restore gives its own instead.
        external: Things outside that a restore gives anew: ``file[MNT:INODE]``, ``unix[INODE]``,
            ``pipe[INODE]``, ``tty[RDEV:DEV]``, ``mnt[PATH]:KEY``.
        timeout_s: How long to wait for what stands in the way for a moment only: vfork(2), a
            connection that is not yet accepted.
    """

    tcp_established: bool = False
    tcp_close: bool = False
    tcp_skip_in_flight: bool = False
    ext_unix_sk: bool = False
    file_locks: bool = False
    link_remap: bool = False
    shell_job: bool = False
    external: tuple[str, ...] = ()
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What a caller gives or allows at a restore.

    Attributes:
        tcp_close: TCP connections to peers outside come back closed.
        shell_job: Terminals that came from outside become our standard streams' terminal.
        inherit_fds: Descriptors of ours that stand for external things, by their key.
        external: What of this host stands for external things: a file or directory by the key of
            a mount; the name of an interface by ``veth[LINK]``, ``macvlan[LINK]`` and the like.
        accepted: Reason codes of differences between hosts that are to be overlooked;
            ``cpu-features`` alone can be.
        lazy: Let the program go on before its memory is there.
    """

    tcp_close: bool = False
    shell_job: bool = False
    inherit_fds: Mapping[str, int] = field(default_factory=dict)
    external: Mapping[str, str] = field(default_factory=dict)
    accepted: frozenset[str] = frozenset()
    lazy: bool = False


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
        session_stdio: The same of each exec session.
        metadata: Stored in the image for the runtime's own use.
        mounts: The mounts when the container was created, as `mountinfo.mount_points` gives them;
            None if not known.
        options: What the caller allows.
        hold: Keeps connections to the outside until the container goes on or ends.
    """

    container_id: str
    init_pid: int
    cgroups: Freezer
    spec: dict[str, Any]
    overlay_upper: Path | None
    stdio: Sequence[StdioIdentity | None]
    metadata: dict[str, Any] = field(default_factory=dict)
    mounts: Sequence[tuple[str, ...]] | None = None
    options: CheckpointOptions = field(default_factory=CheckpointOptions)
    hold: NetworkHold = field(default_factory=NetworkHold)
    session_stdio: Sequence[Sequence[StdioIdentity]] = ()


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
        staged_bytes: Memory that is not in the image, since it was staged before.
        later_bytes: Memory that is not in the image, since it is asked for later.
        later: Whom to read it from: a stopped process by ``mm_id``.
        ahead_bytes: Memory that went into the image although nobody looked at it during the freeze.
    """

    freeze_ns: int = 0
    collect_ns: int = 0
    write_ns: int = 0
    frozen_ns: int = 0
    tasks: int = 0
    processes: int = 0
    memory_bytes: int = 0
    staged_bytes: int = 0
    later_bytes: int = 0
    later: dict[int, int] = field(default_factory=dict)
    ahead_bytes: int = 0
    warnings: list[str] = field(default_factory=list)


class OutsideLink(NamedTuple):
    """An interface of the container that leads to the outside.

    Attributes:
        ifindex: In the container's network namespace.
        host: Name of the host's end; empty when somebody else deals with it.
        bridge: The bridge that it is to be a port of; without one it is still down.
    """

    ifindex: int
    host: str = ""
    bridge: str = ""


@dataclass(slots=True)
class RestoreReport:
    """What a restore did; times in nanoseconds.

    Attributes:
        outside: To be connected when the program goes on, see `runtime.outside`.
    """

    tasks_ns: int = 0
    memory_ns: int = 0
    total_ns: int = 0
    tasks: int = 0
    processes: int = 0
    memory_bytes: int = 0
    later_bytes: int = 0
    warnings: list[str] = field(default_factory=list)
    outside: list[OutsideLink] = field(default_factory=list)


class Init(Protocol):
    """A process in a fresh sandbox that waits to become a stub: its init, or a session of exec."""

    pid: int

    def go(self) -> None:
        """Let it execute the stub."""
