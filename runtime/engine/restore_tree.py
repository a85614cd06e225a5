"""The process tree, recreated by the tasks themselves: parents make children.

A child inherits its session from its parent, so most of the tree follows by itself: a process
makes the children of its old session first, then calls setsid(2), then makes the rest. What is
left are processes whose session or group has no living leader, or one that is not their parent
(daemons). For those a short-lived helper stands in: it takes the dead leader's id, or hangs below
the living one, makes the process, and exits; the kernel hands the process to the nearest subreaper
or the init, where it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from formats.records.task import Process
from runtime.engine.new_task import NewTask
from runtime.engine.remote import Batch
from runtime.errors import RestoreError
from runtime.kernel import ptrace
from runtime.kernel.clone import CLONE_FILES
from runtime.kernel.prctl import PR_SET_CHILD_SUBREAPER

SAVED = (
    (
        "processes",
        "trees, parents, sessions, process groups (also those whose leader is gone), zombies "
        "with their exit status, child subreapers, parent-death signals, processes stopped by "
        "job control",
    ),
)

INIT = 1


class ProcessTree:
    """Builds the tree below an adopted init.

    Args:
        processes: From the image.
        init: The stub that will be process 1.
        prepare: Called with each new process before it makes children.
        on_session: Called with each process that has made its session, before its further children.

    Attributes:
        tasks: The leader of each process by its pid inside.
    """

    def __init__(
        self,
        processes: list[Process],
        init: NewTask,
        prepare: Callable[[Process, NewTask], None] = lambda *_: None,
        on_session: Callable[[NewTask], None] = lambda _leader: None,
    ) -> None:
        self._prepare = prepare
        self._by_pid = {process.pid: process for process in processes}
        self._processes = processes
        self._on_session = on_session
        self.tasks: dict[int, NewTask] = {INIT: init}
        self._waiting: list[Process] = []
        used = {p.pid for p in processes} | {t.tid for p in processes for t in p.threads}
        self._taken = used | {p.sid for p in processes} | {p.pgid for p in processes}

    def build(self) -> None:
        """Make every process, with its session, its group and its parent."""
        if INIT not in self._by_pid:
            raise RestoreError("the image has no init process", reason="image-inconsistent")
        self._grow(self._by_pid[INIT], session=None)
        self._place_the_rest()
        self._join_groups()

    # Sessions

    def _sid(self, process: Process) -> int:
        # Session 0 is one outside of the container; the init leads its own then.
        return process.sid or INIT

    def _pgid(self, process: Process) -> int:
        return process.pgid or self._sid(process)

    def _children(self, process: Process) -> list[Process]:
        return [p for p in self._processes if p.ppid == process.pid and p.pid != INIT]

    def _grow(self, process: Process, *, session: int | None) -> None:
        """Set up a process that exists, and make its children.

        Args:
            process: Its task is in ``tasks``.
            session: The one it was born into.
        """
        task = self.tasks[process.pid]
        self._prepare(process, task)
        if process.child_subreaper:
            task.call("prctl", PR_SET_CHILD_SUBREAPER, 1)
        children = self._children(process)
        own = self._sid(process)
        born_before = [c for c in children if self._sid(c) == session != own]
        for child in born_before:
            self._make(task, child, session)
        if own == process.pid:
            task.call("setsid")
            self._on_session(task)
        for child in children:
            if child in born_before:
                continue
            if self._sid(child) in (own, child.pid):
                self._make(task, child, own)
            else:
                self._waiting.append(child)

    def _make(self, parent: NewTask, process: Process, session: int | None) -> None:
        flags = 0
        mother = self._by_pid.get(parent.ns_pid)
        if mother is not None and not process.zombie and process.files_id == mother.files_id:
            flags |= CLONE_FILES
        # 0 is a child that tells nobody when it ends.
        self.tasks[process.pid] = parent.clone(flags, process.exit_signal, process.pid)
        self._grow(process, session=session)

    def _place_the_rest(self) -> None:
        while self._waiting:
            ready = [p for p in self._waiting if self._home(p) is not None]
            if not ready:
                stuck = self._waiting[0]
                raise RestoreError(
                    f"process {stuck.pid} belongs to session {stuck.sid}, which cannot be rebuilt",
                    reason="session",
                )
            for process in ready:
                self._waiting.remove(process)
                home = self._home(process)
                assert home is not None
                self._make_through_helper(home, process)

    def _home(self, process: Process) -> NewTask | None:
        """Who makes the helper: the living session leader, else the process's own parent."""
        sid = self._sid(process)
        if sid in self.tasks:
            return self.tasks[sid]
        if sid in self._by_pid:
            return None  # not made yet
        return self.tasks.get(process.ppid)

    def _make_through_helper(self, home: NewTask, process: Process) -> None:
        sid = self._sid(process)
        leader_lives = sid in self.tasks
        helper = home.clone(0, 0, self._free_id() if leader_lives else sid)
        if not leader_lives:
            helper.call("setsid")
        siblings = [p for p in self._waiting if self._sid(p) == sid and p.ppid == process.ppid]
        for one in (process, *siblings):
            self.tasks[one.pid] = helper.clone(0, one.exit_signal, one.pid)
            self._grow(one, session=sid)
            if one in self._waiting:
                self._waiting.remove(one)
        self._end_helper(home, helper)

    def _free_id(self) -> int:
        number = max(self._taken) + 1
        self._taken.add(number)
        return number

    @staticmethod
    def _end_helper(parent: NewTask, helper: NewTask) -> None:
        end_task(helper, 0)
        batch = Batch()
        batch.call("wait4", helper.ns_pid, 0, 0x40000000, 0)  # __WALL
        parent.do(batch)

    # Groups

    def _join_groups(self) -> None:
        for process in self._processes:
            if self._pgid(process) == process.pid != self._sid(process):
                self.tasks[process.pid].call("setpgid", 0, 0)
        orphaned: dict[int, list[Process]] = {}
        for process in self._processes:
            group = self._pgid(process)
            if group in (process.pid, self._born_into(process)):
                continue
            if group in self.tasks:
                self.tasks[process.pid].call("setpgid", 0, group)
            else:
                orphaned.setdefault(group, []).append(process)
        for group, members in orphaned.items():
            self._join_dead_group(group, members)

    def _born_into(self, process: Process) -> int:
        """The group that a process is in by now; -1 when that has to be looked up."""
        task = self.tasks[process.pid]
        return task.call("getpgid", 0)

    def _join_dead_group(self, group: int, members: list[Process]) -> None:
        home = self.tasks[members[0].pid]
        helper = home.clone(0, 0, group)
        helper.call("setpgid", 0, 0)
        for member in members:
            self.tasks[member.pid].call("setpgid", 0, group)
        self._end_helper(home, helper)


def end_task(task: NewTask, status: int) -> None:
    """Make a stub end with a wait status; it is a zombie of its parent afterwards.

    The core-dump bit of a status cannot be brought back without dumping core.
    """
    by_signal = status & 0x7F
    if by_signal:
        ptrace.set_sigmask(task.tid, 0)
        os.kill(task.tid, by_signal)
        ptrace.resume(task.tid)
    else:
        batch = Batch()
        batch.call("exit_group", status >> 8)
        task.start(batch)
    while True:
        stop = ptrace.wait_stop(task.tid)
        assert stop is not None
        if stop.gone:
            return
        ptrace.resume(task.tid, stop.signal if not stop.event else 0)
