"""Who makes whom, so that processes share again what they shared.

Descriptor tables, directories, memory and signal handlers are shared by being born with them, and
in no other way. So each process must be made by a task that has what it shares at that moment:

* mostly its parent;
* a parent that has not got it, but whose own parent has, *carries* it: it is born with it, makes
  the child, and only then gets its own (unshare(2));
* a sibling, with CLONE_PARENT: the only way for memory, which cannot be unshared.

What this cannot rebuild is found out before a checkpoint touches anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from formats.records.task import Process, Thread
from runtime.kernel.clone import (
    CLONE_FILES,
    CLONE_FS,
    CLONE_IO,
    CLONE_SIGHAND,
    CLONE_SYSVSEM,
    CLONE_VM,
)

SAVED = (
    (
        "processes",
        "descriptor tables, directories, memory, signal handlers and semaphore adjustments that "
        "relatives share, whoever made them; threads with directories or descriptors of their own",
    ),
)
REFUSED = (
    ("shared-memory-map", "memory shared by processes that are neither parent nor sibling"),
    ("shared-handlers", "signal handlers shared by processes that are neither parent nor sibling"),
    ("shared-fs", "directories shared in a way that no order of births brings about"),
    ("shared-files", "descriptor tables shared in a way that no order of births brings about"),
)

_FLAGS = {
    "files": CLONE_FILES,
    "fs": CLONE_FS,
    "mm": CLONE_VM,
    "sighand": CLONE_SIGHAND,
    "undo": CLONE_SYSVSEM,
    "io": CLONE_IO,
}
CARRIED = {"files": CLONE_FILES, "fs": CLONE_FS}  # what unshare(2) gives up
_REASONS = {
    "mm": ("shared-memory-map", "memory"),
    "sighand": ("shared-handlers", "signal handlers"),
    "fs": ("shared-fs", "working directory"),
    "files": ("shared-files", "descriptor table"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that cannot be shared again."""

    reason: str
    subject: str
    sentence: str


@dataclass(slots=True)
class Birth:
    """How a process comes into being.

    Attributes:
        by_sibling: Pid of the sibling that makes it, with CLONE_PARENT; 0 for the parent.
        carries: What it is born with only for its children, by kind.
    """

    by_sibling: int = 0
    carries: dict[str, int] = field(default_factory=dict)


def groups_of(task: Process | Thread, leader: Process) -> dict[str, int]:
    """What a task has, by kind: processes from the record, threads mostly their leader's."""
    found = {
        "files": leader.files_id,
        "fs": leader.fs_id,
        "mm": leader.mm_id,
        "sighand": leader.sighand_id,
        "undo": leader.undo_id,
        "io": leader.io_id,
    }
    if isinstance(task, Thread):
        if task.table is not None:
            found["files"] = task.table.files_id
        if task.directories is not None:
            found["fs"] = task.directories.fs_id
    return found


class Kinship:
    """The plan of all births.

    Args:
        processes: From an image, or on their way into one.

    Attributes:
        births: By pid.
        problems: What cannot be rebuilt.
    """

    def __init__(self, processes: Sequence[Process]) -> None:
        self._by_pid = {process.pid: process for process in processes}
        self._children: dict[int, list[Process]] = {}
        for process in processes:
            if process.pid != process.ppid:
                self._children.setdefault(process.ppid, []).append(process)
        self.births = {process.pid: Birth() for process in processes}
        self.problems: list[Problem] = []
        for kind, group, members in self._shared(processes):
            self._arrange(kind, group, members)
        self._check_siblings()

    def children(self, pid: int) -> list[Process]:
        """The children of a process, in the order of the image."""
        return self._children.get(pid, [])

    def _shared(self, processes: Iterable[Process]) -> Iterator[tuple[str, int, set[int]]]:
        """(kind, group, pids) of everything that several processes have."""
        found: dict[tuple[str, int], set[int]] = {}
        for process in processes:
            if process.zombie:
                continue
            tasks: tuple[Process | Thread, ...] = (process, *process.threads[1:])
            for task in tasks:
                for kind, group in groups_of(task, process).items():
                    if group:
                        found.setdefault((kind, group), set()).add(process.pid)
        for (kind, group), members in found.items():
            if len(members) > 1:
                yield kind, group, members

    def _arrange(self, kind: str, group: int, members: set[int]) -> None:
        top = self._common_ancestor(members)
        if kind in CARRIED:
            if top not in members and self._are_siblings(members):
                self._by_sibling(kind, members)
                return
            for pid in members:
                self._carry_down(kind, group, top, pid, members)
            return
        if kind not in _REASONS:
            return  # undo lists and I/O contexts: who cannot inherit them gets their own
        orphans = {pid for pid in members if self._by_pid[pid].ppid not in members}
        if len(orphans) > 1:
            if self._are_siblings(orphans):
                self._by_sibling(kind, orphans)
            else:
                self._complain(kind, max(orphans))

    def _common_ancestor(self, pids: set[int]) -> int:
        lines = [list(self._line(pid))[::-1] for pid in pids]
        top = 0
        for step in zip(*lines, strict=False):
            if len(set(step)) > 1:
                break
            top = step[0]
        return top

    def _line(self, pid: int) -> Iterator[int]:
        """A process and its ancestors; an image in which they run in a circle has no such line."""
        seen: set[int] = set()
        while pid in self._by_pid and pid not in seen:
            seen.add(pid)
            yield pid
            pid = self._by_pid[pid].ppid

    def _are_siblings(self, pids: set[int]) -> bool:
        return len({self._by_pid[pid].ppid for pid in pids}) == 1

    def _by_sibling(self, kind: str, pids: set[int]) -> None:
        first, *others = sorted(pids, key=list(self._by_pid).index)
        for pid in others:
            birth = self.births[pid]
            if self._by_pid[pid].exit_signal != self._by_pid[first].exit_signal or (
                birth.by_sibling not in (0, first)
            ):
                self._complain(kind, pid)
            birth.by_sibling = first

    def _carry_down(self, kind: str, group: int, top: int, pid: int, members: set[int]) -> None:
        """Let everybody between *top* and *pid* carry the group."""
        for between in list(self._line(pid))[1:]:
            if between not in members:
                carries = self.births[between].carries
                if carries.setdefault(kind, group) != group or self._keeps(kind, between):
                    self._complain(kind, pid)
            if between == top:
                return

    def _keeps(self, kind: str, pid: int) -> bool:
        """Whether a process was born with what it has, and so cannot carry anything before."""
        process = self._by_pid[pid]
        mother = self._by_pid.get(process.ppid)
        if mother is None:
            return False
        return groups_of(process, process)[kind] == groups_of(mother, mother)[kind]

    def _complain(self, kind: str, pid: int) -> None:
        reason, what = _REASONS[kind]
        process = self._by_pid[pid]
        name = process.comm.decode(errors="replace")
        sentence = f"shares its {what} with processes that no order of births brings together"
        problem = Problem(reason, f"pid {pid} ({name})", sentence)
        if problem not in self.problems:
            self.problems.append(problem)

    def _check_siblings(self) -> None:
        """Who is made by a sibling cannot be born with what only the parent has."""
        for pid, birth in self.births.items():
            process = self._by_pid[pid]
            parent, sibling = (self._by_pid.get(p) for p in (process.ppid, birth.by_sibling))
            if parent is None or sibling is None:
                continue
            own, theirs = groups_of(process, process), groups_of(sibling, sibling)
            of_parent = groups_of(parent, parent)
            for kind in _REASONS:
                if own[kind] == of_parent[kind] != theirs[kind]:
                    self._complain(kind, pid)

    # Births

    def is_early(self, child: Process) -> bool:
        """Whether a child must be born while its parent still carries something."""
        carried = self.births[child.ppid].carries if child.ppid in self.births else {}
        if not carried or child.zombie:
            return False
        needs = self.needs(child)
        return any(needs[kind] == group for kind, group in carried.items())

    def needs(self, process: Process) -> dict[str, int]:
        """What a process is born with, if its maker has it: its own, or what it carries."""
        return groups_of(process, process) | self.births[process.pid].carries


def flags_for(held: dict[str, int], needs: dict[str, int]) -> int:
    """The clone(2) flags with which a task that holds *held* makes one that *needs* things."""
    flags = 0
    for kind, flag in _FLAGS.items():
        if held[kind] and held[kind] == needs[kind]:
            flags |= flag
    return flags if flags & CLONE_VM else flags & ~CLONE_SIGHAND
