"""What a dump knows of one process of the frozen container."""

from __future__ import annotations

from dataclasses import dataclass, field

from formats.records.settings import ProcessSettings
from formats.records.task import (
    IntervalTimer,
    PosixTimer,
    SemaphoreAdjustment,
    SignalAction,
    Thread,
)
from runtime.kernel import proc_maps, proc_task


@dataclass(slots=True)
class LiveProcess:
    """A process of the frozen container while it is dumped.

    Attributes:
        pid: In our own pid namespace.
        parent: In our own pid namespace; 0 for the init.
        tids: Its living threads, the leader first.
        parent_tid: The thread of the parent that it is a child of.
        leader_exited: Whether its first thread has ended and others go on.
        stat: /proc/PID/stat at the freeze.
        zombie: Whether only its exit status is left.
        mappings: Its address space.
        threads: The dumped threads, the leader first.
    """

    pid: int
    parent: int
    stat: proc_task.Stat
    zombie: bool
    tids: list[int] = field(default_factory=list)
    parent_tid: int = 0
    leader_exited: bool = False
    mappings: list[proc_maps.Mapping] = field(default_factory=list)
    threads: list[Thread] = field(default_factory=list)
    answers: ProcessAnswers | None = None
    pending: tuple[bytes, ...] = ()
    sigtrap_action: bytes = b""
    semaphore_undo: tuple[SemaphoreAdjustment, ...] = ()
    settings: ProcessSettings = field(default_factory=ProcessSettings)

    @property
    def view(self) -> int:
        """The task through which /proc shows the process: its leader has nothing left to show
        when it has exited."""
        return self.tids[0] if self.tids else self.pid


@dataclass(slots=True)
class ProcessAnswers:
    """What the leader said about its process."""

    actions: tuple[SignalAction, ...]
    interval_timers: tuple[IntervalTimer, ...]
    posix_timers: tuple[PosixTimer, ...]
    dumpable: int
    child_subreaper: bool
    thp_disabled: bool
    brk: int
    locked_future: int
