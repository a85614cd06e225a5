"""The process tree, recreated by the tasks themselves: parents make children.

A child inherits its session from its parent, so most of the tree follows by itself: a process
makes the children of its old session first, then calls setsid(2), then makes the rest. What is
left are processes whose session or group has no living leader, or one that is not their parent
(daemons). For those a short-lived helper stands in: it takes the dead leader's id, or hangs below
the living one, makes the process, and exits; the kernel hands the process to the nearest subreaper
or the init, where it was.

What relatives share decides about the order too (`runtime.engine.kinship`), and so do namespaces
(`runtime.engine.placement`). A process goes through these steps:

1. the children that need what it only carries for them are made, and it gets its own;
2. it enters its namespaces, as long as it has the privileges for all of them;
3. the other children are made, before and after it starts its session;
4. it enters its user namespace, and makes its threads, and what children these have made.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from formats.records.task import Process, Thread
from runtime.engine.kinship import CARRIED, Kinship, flags_for, groups_of
from runtime.engine.new_task import THREAD_FLAGS, NewTask
from runtime.engine.placement import Placement
from runtime.engine.remote import Batch
from runtime.engine.restore_threads import restore_ids
from runtime.errors import RestoreError
from runtime.kernel import proc_task, ptrace
from runtime.kernel.clone import CLONE_FILES, CLONE_FS, CLONE_PARENT
from runtime.kernel.prctl import PR_SET_CHILD_SUBREAPER

SAVED = (
    (
        "processes",
        "trees, parents, sessions, process groups (also those whose leader is gone), zombies "
        "with their exit status, sessions of `exec` beside the init's tree, child subreapers, "
        "parent-death signals, processes stopped by job control",
    ),
)

INIT = 1


class ProcessTree:
    """Builds the tree below an adopted init.

    Args:
        processes: From the image.
        init: The stub that will be process 1.
        placement: Knows about ids and namespaces.
        prepare: Called with each new process before it makes children.
        on_session: Called with each process that has made its session, before its further children.

    Attributes:
        tasks: The leader of each process by its pid inside.
        threads: All tasks of each living process, the leader first unless it shall exit.
    """

    def __init__(
        self,
        processes: list[Process],
        init: NewTask,
        placement: Placement,
        prepare: Callable[[Process, NewTask], None] = lambda *_: None,
        on_session: Callable[[NewTask], None] = lambda _leader: None,
    ) -> None:
        self._prepare = prepare
        self._by_pid = {process.pid: process for process in processes}
        self._processes = processes
        self._on_session = on_session
        self._kinship = Kinship(processes)
        self._placement = placement
        self._namespaces = placement.namespaces
        self._held: dict[int, dict[str, int]] = {}  # what each task shares with others, by our tid
        self._waiting: list[Process] = []
        self._roots: list[tuple[Process, NewTask]] = []
        self.tasks: dict[int, NewTask] = {INIT: init}
        self.threads: dict[int, list[NewTask]] = {}

    def add_root(self, process: Process, task: NewTask) -> None:
        """Have a tree grow from a further stub, beside the init's: a session of exec."""
        task.within = dict(self.tasks[INIT].within)
        self._roots.append((process, task))

    def build(self) -> None:
        """Make every process, with its session, its group and its parent, and all threads."""
        if INIT not in self._by_pid:
            raise RestoreError("the image has no init process", reason="image-inconsistent")
        for problem in self._kinship.problems:
            raise RestoreError(f"{problem.subject} {problem.sentence}", reason=problem.reason)
        init = self._by_pid[INIT]
        self._held[self.tasks[INIT].tid] = self._kinship.needs(init)
        self._grow(init, session=None)
        for process, task in self._roots:
            self.tasks[process.pid] = task
            self._held[task.tid] = self._kinship.needs(process)
            self._grow(process, session=None)
        self._place_the_rest()
        self._join_groups()
        for process in self._processes:
            if process.pid not in self.tasks:
                raise RestoreError(
                    f"process {process.pid} is nobody's child", reason="image-inconsistent"
                )
            if not process.zombie:
                self._make_threads(process)
        for process in self._processes:
            for task, thread in zip(
                self.threads.get(process.pid, ()), process.threads, strict=False
            ):
                self._placement.aim_children(
                    task, thread.pid_for_children, thread.time_for_children
                )
        self._placement.end_keepers()

    # Sessions

    def _sid(self, process: Process) -> int:
        # Session 0 is one outside of the container; the init leads its own then.
        return process.sid or INIT

    def _pgid(self, process: Process) -> int:
        return process.pgid or self._sid(process)

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
        own = self._sid(process)
        children = [c for c in self._kinship.children(process.pid) if c.pid != INIT]
        early = [child for child in children if self._kinship.is_early(child)]
        late = [child for child in children if child not in early]
        now = session
        for child in early:
            if self._is_born_before(child, session, own):
                self._make(process, child, now)
        if own == process.pid and any(self._sid(child) in (own, child.pid) for child in early):
            self._start_session(task)
            now = own
        for child in early:
            if not self._is_born_before(child, session, own):
                self._make_or_wait(process, child, now)
        self._give_up_carried(process)
        if not process.zombie:
            self._placement.enter(task, self._namespaces.wanted(process))
        for child in late:
            if self._is_born_before(child, session, own):
                self._make_or_wait(process, child, now)
        if own == process.pid != now:
            self._start_session(task)
            now = own
        for child in late:
            if not self._is_born_before(child, session, own):
                self._make_or_wait(process, child, now)
        self._enter_user(process)

    def _start_session(self, task: NewTask) -> None:
        task.call("setsid")
        self._on_session(task)

    def _is_born_before(self, child: Process, session: int | None, own: int) -> bool:
        return self._sid(child) == session != own

    def _make_or_wait(self, parent: Process, child: Process, session: int | None) -> None:
        if self._sid(child) in (session, child.pid):
            self._make(parent, child, session)
        else:
            self._waiting.append(child)

    # Births

    def _make(self, parent: Process, process: Process, session: int | None) -> None:
        birth = self._kinship.births[process.pid]
        sibling = self.tasks.get(birth.by_sibling)
        if birth.by_sibling and sibling is None:
            raise RestoreError(
                f"process {process.pid} is to be made by {birth.by_sibling}, which does not exist",
                reason="session",
            )
        creator = sibling or self._parent_task(parent, process)
        flags = CLONE_PARENT if sibling else 0
        if not process.zombie:
            flags |= flags_for(self._held[creator.tid], self._kinship.needs(process))
            self._prepare_creator(parent, creator, process, flags)
        self._bear(creator, flags, process)
        self._grow(process, session=session)

    def _parent_task(self, parent: Process, process: Process) -> NewTask:
        if process.parent_tid:
            self._make_threads(parent)
            for task in self.threads[parent.pid]:
                if task.ns_pid == process.parent_tid:
                    return task
        return self.tasks[parent.pid]

    def _prepare_creator(
        self, parent: Process, creator: NewTask, process: Process, flags: int
    ) -> None:
        wanted = self._namespaces.wanted(process)
        if flags & CLONE_FS and wanted["user"] == self._namespaces.wanted(parent)["user"]:
            # Who shares directories can enter a user namespace no more.
            self._enter_user(parent)
        if wanted["time"] and self._namespaces.fd(wanted["time"]) is None:
            if self._namespaces.owner(wanted["time"]) != creator.within["user"]:
                self._enter_user(parent)
            self._placement.aim_clocks(creator, wanted["time"])

    def _bear(self, creator: NewTask, flags: int, process: Process) -> None:
        """Make a process; its first in a pid namespace from within the owner of that."""
        pid_ns = self._namespaces.wanted(process)["pid"]
        signal = 0 if flags & CLONE_PARENT else process.exit_signal
        owner = self._namespaces.owner(pid_ns)
        helper = None
        if self._namespaces.fd(pid_ns) is None and owner != creator.within["user"]:
            helper = self._placement.helper(
                creator, flags & CLONE_PARENT, signal, creator.within["pid"]
            )
            if process.threads:
                restore_ids(helper, process.threads[0].credentials)
            self._placement.enter_user(helper, owner)
            flags = CLONE_PARENT
        maker = helper or creator
        task = self._placement.clone(
            maker, flags, 0 if helper else signal, (process.pid, *process.nested_pids), pid_ns
        )
        self.tasks[process.pid] = task
        self._held[task.tid] = self._kinship.needs(process)
        if helper is not None:
            self._placement.bury(self.tasks.get(process.ppid, creator), helper)

    def _give_up_carried(self, process: Process) -> None:
        carries = self._kinship.births[process.pid].carries
        if carries:
            task = self.tasks[process.pid]
            task.call("unshare", sum(CARRIED[kind] for kind in carries))
            self._held[task.tid] = groups_of(process, process)

    def _enter_user(self, process: Process) -> None:
        if process.zombie:
            return
        task = self.tasks[process.pid]
        user_ns = self._namespaces.wanted(process)["user"]
        if task.within["user"] != user_ns:
            # Ids that the namespace does not have can only be taken outside of it.
            restore_ids(task, process.threads[0].credentials)
            self._placement.enter_user(task, user_ns)

    # Threads

    def _make_threads(self, process: Process) -> None:
        if process.pid in self.threads:
            return
        self._enter_user(process)
        leader = self.tasks[process.pid]
        tasks = self.threads[process.pid] = [leader]
        for thread in process.threads:
            if thread.time_for_children:
                # Threads are born with it; afterwards none could be sent there.
                self._placement.aim_clocks(leader, thread.time_for_children)
        for thread in process.threads[0 if process.leader_exited else 1 :]:
            tasks.append(self._make_thread(process, tasks, thread))
        if process.leader_exited:
            tasks.pop(0)

    def _make_thread(self, process: Process, tasks: list[NewTask], thread: Thread) -> NewTask:
        wanted = groups_of(thread, process)

        def in_common(task: NewTask) -> int:
            held = self._held[task.tid]
            return sum(held[kind] == wanted[kind] for kind in CARRIED)

        creator = max(tasks, key=in_common)
        flags = THREAD_FLAGS & ~(CLONE_FS | CLONE_FILES)
        flags |= flags_for(self._held[creator.tid], wanted) & (CLONE_FS | CLONE_FILES)
        ids = (thread.tid, *thread.nested_tids)
        task = self._placement.clone(creator, flags, 0, ids, creator.within["pid"])
        self._held[task.tid] = wanted
        if thread.namespaces is not None:
            self._placement.enter(task, self._namespaces.wanted(thread))
        return task

    # Sessions and groups without a living leader

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
                home = self._home(process)
                if process in self._waiting and home is not None:
                    self._waiting.remove(process)
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
        needs = self._kinship.needs(process)
        flags = 0 if process.zombie else flags_for(self._held[home.tid], needs)
        if sid in self.tasks:
            helper = self._placement.helper(home, flags, 0, home.within["pid"])
        else:
            helper = self._stand_in(home, process, (sid, *process.nested_sid), flags)
            helper.call("setsid")
        self._held[helper.tid] = self._held[home.tid] if flags else dict.fromkeys(needs, 0)
        siblings = [p for p in self._waiting if self._sid(p) == sid and p.ppid == process.ppid]
        for one in (process, *siblings):
            shares = 0
            if not one.zombie:
                shares = flags_for(self._held[helper.tid], self._kinship.needs(one))
            self._bear(helper, shares, one)
            self._grow(one, session=sid)
            if one in self._waiting:
                self._waiting.remove(one)
        self._placement.bury(home, helper)

    def _stand_in(
        self, home: NewTask, process: Process, ids: tuple[int, ...], flags: int = 0
    ) -> NewTask:
        """A helper under the ids of somebody who has ended.

        Args:
            home: Its parent.
            process: Who still has the ids as a session or a group.
            ids: As *process* sees them, from the container's pid namespace down; 0 where they
                are not known.
            flags: What it shares with *home*.
        """
        levels = self._namespaces.levels(self._namespaces.wanted(process)["pid"])
        known = tuple(number for number in ids if number)
        return self._placement.clone(home, flags, 0, known, levels[len(known) - 1])

    # Groups

    def _join_groups(self) -> None:
        for process in self._processes:
            if self._pgid(process) == process.pid != self._sid(process):
                self.tasks[process.pid].call("setpgid", 0, 0)
        orphaned: dict[int, list[Process]] = {}
        for process in self._processes:
            group = self._pgid(process)
            if group in (process.pid, self._group_now(process)):
                continue
            if group in self.tasks:
                self._set_group(process, self.tasks[group])
            else:
                orphaned.setdefault(group, []).append(process)
        for group, members in orphaned.items():
            self._join_dead_group(group, members)

    def _group_now(self, process: Process) -> int:
        """The group that a process is in by now."""
        task = self.tasks[process.pid]
        groups = proc_task.status(task.tid).ints("NSpgid")
        return groups[-len(task.ids)]

    def _set_group(self, process: Process, leader: NewTask) -> None:
        task = self.tasks[process.pid]
        if len(leader.ids) >= len(task.ids):
            task.call("setpgid", 0, leader.ids[len(task.ids) - 1])
            return
        # The group has no number where the task is: its parent puts it there.
        parent = self.tasks[process.ppid]
        level = len(parent.ids) - 1
        parent.call("setpgid", task.ids[level], leader.ids[level])

    def _join_dead_group(self, group: int, members: list[Process]) -> None:
        home = self.tasks[members[0].pid]
        helper = self._stand_in(home, members[0], (group, *members[0].nested_pgid))
        helper.call("setpgid", 0, 0)
        for member in members:
            self._set_group(member, helper)
        self._placement.bury(home, helper)


def end_task(task: NewTask, status: int) -> None:
    """Make a stub end with a wait status; it is a zombie of its parent afterwards."""
    by_signal = status & 0x7F
    if by_signal:
        ptrace.set_sigmask(task.tid, 0)
        os.kill(task.tid, by_signal)
        with contextlib.suppress(ProcessLookupError):  # SIGKILL does not wait for us
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
        with contextlib.suppress(ProcessLookupError):
            ptrace.resume(task.tid, stop.signal if not stop.event else 0)
