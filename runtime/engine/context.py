"""What one dump knows while it runs: the frozen tasks, ids handed out, and everything refused."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from formats.errors import Refusal
from runtime.engine.api import DumpTarget
from runtime.engine.freeze import Frozen
from runtime.kernel import proc_task

if TYPE_CHECKING:
    from runtime.engine.live_process import LiveProcess
    from runtime.engine.sandbox.kind import Scope
    from runtime.engine.tracking import TrackedSpace


@dataclass(slots=True)
class DumpContext:
    """Shared by the modules that dump one kind of state each.

    Attributes:
        target: The container.
        frozen: Its stopped tasks.
        ns_pids: Host pid to container pid, threads included.
        nested_pids: Host pid to the ids below the container's pid namespace, the outermost first.
        depth: How many pid namespaces, from ours down, lie above the container's.
        refusals: What cannot be saved; a dump that finds any goes no further.
        unreported_stops: Stopped processes (our pids) whose parent has not waited for the stop yet.
        inherited: (pid, descriptor) of those that exec passes on although their fdinfo denies it.
        scopes: The namespaces of its processes, by kind and inode.
        clock_ns: Our CLOCK_MONOTONIC at the moment that the image calls ``Host.monotonic_ns``.
        views: The tasks through which /proc shows the processes that are no zombies.
        live: The processes that are no zombies, once they are looked at.
        tracked: What we track the writes of, by ``mm_id`` (precopy.py).
        warnings: What is saved with a difference that the program might see.
    """

    target: DumpTarget
    frozen: Frozen
    ns_pids: dict[int, int] = field(default_factory=dict)
    nested_pids: dict[int, tuple[int, ...]] = field(default_factory=dict)
    depth: int = 0
    comms: dict[int, str] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unreported_stops: set[int] = field(default_factory=set)
    inherited: set[tuple[int, int]] = field(default_factory=set)
    scopes: dict[tuple[str, int], Scope] = field(default_factory=dict)
    clock_ns: int = 0
    views: list[int] = field(default_factory=list)
    live: dict[int, LiveProcess] = field(default_factory=dict)
    tracked: dict[int, TrackedSpace] = field(default_factory=dict)
    _last_id: int = 0
    _stats: dict[int, proc_task.Stat] = field(default_factory=dict)
    _statuses: dict[int, proc_task.Status] = field(default_factory=dict)

    def stat(self, tid: int) -> proc_task.Stat:
        """/proc/TID/stat, read once: a frozen task does not change."""
        if tid not in self._stats:
            self._stats[tid] = proc_task.stat(tid)
        return self._stats[tid]

    def status(self, tid: int) -> proc_task.Status:
        """/proc/TID/status, read once."""
        if tid not in self._statuses:
            self._statuses[tid] = proc_task.status(tid)
        return self._statuses[tid]

    def seen_by(self, pid: int, viewer: int) -> int:
        """The id of a task in the pid namespace of another one."""
        ids = (self.ns_pids[pid], *self.nested_pids[pid])
        return ids[len(self.nested_pids[viewer])]

    def own_id(self, pid: int) -> int:
        """The id of a task in its own pid namespace; 0 for one that is not the container's."""
        return (self.ns_pids.get(pid, 0), *self.nested_pids.get(pid, ()))[-1]

    def new_id(self) -> int:
        """A number that no other object, file or address space of this image has."""
        self._last_id += 1
        return self._last_id

    def since_clock(self) -> int:
        """Nanoseconds since ``clock_ns``: what is left of a time now was as much more then."""
        return time.monotonic_ns() - self.clock_ns

    def subject(self, pid: int, what: str = "") -> str:
        """How a message names a process: its pid inside, its name, and *what* of it."""
        name = f"pid {self.ns_pids.get(pid, pid)} ({self.comms.get(pid, '?')})"
        return f"{name} {what}" if what else name

    def refuse(self, reason: str, subject: str, sentence: str) -> None:
        """Note something that cannot be saved."""
        self.refusals.append(Refusal(reason, subject, sentence))
