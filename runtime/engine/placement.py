"""Births and moves of stubs: ids in every pid namespace, and tasks into their namespaces.

A stub with all privileges over the container chooses its child's ids with clone3(2)'s *set_tid*.
One that has entered a nested user namespace may not: for it a *keeper*, a privileged stub in each
pid namespace, writes /proc/sys/kernel/ns_last_pid before each birth. Nothing else runs in there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable

from runtime.engine.new_namespaces import NewNamespaces
from runtime.engine.new_task import NewTask
from runtime.engine.remote import Batch
from runtime.errors import RestoreError
from runtime.kernel import proc_task
from runtime.kernel.clone import (
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_THREAD,
)
from runtime.kernel.namespaces import NAMESPACE_FLAGS

NS_LAST_PID = "/proc/sys/kernel/ns_last_pid"
_MOVES_LATER = ("user", "pid")


class Placement:
    """Where stubs are, and how they get elsewhere.

    Args:
        namespaces: Of the container.
        channel: The other end of every stub's channel.
        init: The first stub, in the sandbox's own namespaces.
        taken: Ids that tasks, groups and sessions of the image need, by pid namespace.
        end: Lets a stub end; its parent still has to wait for it.
    """

    def __init__(
        self,
        namespaces: NewNamespaces,
        channel: socket.socket,
        init: NewTask,
        taken: dict[int, set[int]],
        end: Callable[[NewTask], None],
    ) -> None:
        self.namespaces = namespaces
        self._channel = channel
        self._init = init
        self._taken = taken
        self._end = end
        self._helpers: set[int] = set()
        self._keepers: dict[int, tuple[NewTask, int]] = {}
        init.within = {kind: namespaces.own(kind) for kind in NAMESPACE_FLAGS}
        init.within["pid_for_children"] = init.within["pid"]
        if namespaces.any_nested_user:
            self._keeper(init.within["pid"])

    # Ids

    def _free_ids(self, pid_ns: int) -> tuple[int, ...]:
        """Ids for a stub in *pid_ns* that the image does not need, the container's first."""
        ids = []
        for level in self.namespaces.levels(pid_ns):
            taken = self._taken.setdefault(level, set())
            number = next(n for n in range(2, len(taken) + 3) if n not in taken)
            taken.add(number)
            ids.append(number)
        return tuple(ids)

    def helper(self, creator: NewTask, flags: int, exit_signal: int, pid_ns: int) -> NewTask:
        """Make a stub that nobody will miss, under ids that the image does not need."""
        helper = self.clone(creator, flags, exit_signal, self._free_ids(pid_ns), pid_ns)
        self._helpers.add(helper.tid)
        return helper

    def bury(self, parent: NewTask, helper: NewTask) -> None:
        """Let a stub end that has done its work."""
        self._end(helper)
        parent.reap(helper)
        if helper.tid in self._helpers:
            self._helpers.discard(helper.tid)
            levels = self.namespaces.levels(helper.within["pid"])
            for level, number in zip(levels, helper.ids, strict=True):
                self._taken.setdefault(level, set()).discard(number)

    def _keeper(self, pid_ns: int) -> tuple[NewTask, int]:
        """A privileged stub in a pid namespace, and its descriptor of ns_last_pid."""
        if pid_ns not in self._keepers:
            own = self._init.within["pid"]
            maker = self._init if pid_ns == own else self._keeper(own)[0]
            keeper = self.helper(maker, 0, 0, pid_ns)
            fd = os.open(NS_LAST_PID, os.O_WRONLY | os.O_CLOEXEC)
            try:
                (number,) = keeper.receive(self._channel, [fd])
            finally:
                os.close(fd)
            self._keepers[pid_ns] = (keeper, number)
        return self._keepers[pid_ns]

    def end_keepers(self) -> None:
        """Let them go, when the last task has been born."""
        own = self._init.within["pid"]
        for pid_ns in sorted(self._keepers, key=lambda number: number == own):
            keeper, _ = self._keepers[pid_ns]
            maker = self._init if pid_ns == own else self._keepers[own][0]
            self.bury(maker, keeper)
        self._keepers.clear()

    def may_choose(self, creator: NewTask) -> bool:
        """Whether a stub has all privileges over the container."""
        return creator.within["user"] == self.namespaces.own("user")

    def clone(
        self, creator: NewTask, flags: int, exit_signal: int, ids: tuple[int, ...], pid_ns: int
    ) -> NewTask:
        """Make a child, or a thread, under its old ids.

        Args:
            creator: Its parent, or, with CLONE_PARENT, its sibling.
            flags: What it shares.
            exit_signal: What its parent is sent when it ends; 0 with CLONE_PARENT.
            ids: In the container's pid namespace and those below it.
            pid_ns: The one it will be in; it is made if this is its first process.

        Raises:
            RestoreError: An id is taken.
        """
        levels = self.namespaces.levels(pid_ns)
        if len(ids) != len(levels):
            raise RestoreError(
                f"task {ids[0]} has ids in {len(ids)} pid namespaces, but lies in {len(levels)}",
                reason="image-inconsistent",
            )
        first = self.namespaces.fd(pid_ns) is None
        if not flags & CLONE_THREAD:
            self._direct_children(creator, pid_ns)
        choose = self.may_choose(creator)
        if not choose:
            for level, number in zip(levels, ids, strict=True):
                if not (first and level == pid_ns):
                    keeper, fd = self._keeper(level)
                    keeper.call("write", fd, str(number - 1).encode(), len(str(number - 1)))
        child = creator.clone(flags, exit_signal, ids, choose=choose)
        child.within = dict(creator.within)
        child.within["pid"] = child.within["pid_for_children"] = pid_ns
        if "time_for_children" in child.within and not flags & CLONE_THREAD:
            child.within["time"] = child.within.pop("time_for_children")
        if not choose:
            _check_ids(child)
        if first:
            self.namespaces.adopt(pid_ns, child.tid, "pid")
        return child

    def _direct_children(self, task: NewTask, pid_ns: int) -> None:
        """Let the next children of a stub be in *pid_ns*."""
        if task.within["pid_for_children"] == pid_ns:
            return
        fd = self.namespaces.fd(pid_ns)
        if fd is None:
            # Only below the one that the stub is in itself can it make another.
            self._direct_children(task, task.within["pid"])
            task.call("unshare", CLONE_NEWPID)
        else:
            self._setns(task, fd, CLONE_NEWPID)
        task.within["pid_for_children"] = pid_ns

    # Moves

    def enter(self, task: NewTask, wanted: dict[str, int]) -> None:
        """Let a stub enter all its namespaces but those of users."""
        for kind, ns_id in wanted.items():
            if kind in _MOVES_LATER or task.within[kind] == ns_id:
                continue
            self._setns(task, self._existing(ns_id), NAMESPACE_FLAGS[kind])
            task.within[kind] = ns_id

    def enter_user(self, task: NewTask, ns_id: int) -> None:
        """Let a stub enter a nested user namespace, in which it has all privileges."""
        if task.within["user"] != ns_id:
            self._setns(task, self._existing(ns_id), NAMESPACE_FLAGS["user"])
            task.within["user"] = ns_id

    def aim_children(self, task: NewTask, pid_ns: int, time_ns: int) -> None:
        """Where a stub's further children shall be; 0 for its own."""
        self._aim_pids(task, pid_ns or task.within["pid"])
        if time_ns:
            self.aim_clocks(task, time_ns)

    def _aim_pids(self, task: NewTask, pid_ns: int) -> None:
        if self.namespaces.fd(pid_ns) is None and self.namespaces.record(pid_ns).dead:
            self._make_dead(task, pid_ns)
        self._direct_children(task, pid_ns)

    def _make_dead(self, task: NewTask, pid_ns: int) -> None:
        """Make a pid namespace whose init comes and goes."""
        here = self.namespaces.levels(pid_ns)[:-1]
        first = self.clone(task, 0, 0, (*self._free_ids(here[-1]), 1), pid_ns)
        self._helpers.add(first.tid)
        self.bury(task, first)

    def aim_clocks(self, task: NewTask, time_ns: int) -> None:
        """Let a stub make the time namespace of its children, unless it has."""
        if self.namespaces.fd(time_ns) is None:
            task.call("unshare", CLONE_NEWTIME)
            self.namespaces.adopt(time_ns, task.tid, "time_for_children")
            self.namespaces.set_clocks(time_ns, task.tid)
            task.within["time_for_children"] = time_ns

    def _existing(self, ns_id: int) -> int:
        fd = self.namespaces.fd(ns_id)
        if fd is None:
            raise RestoreError(
                f"namespace {ns_id} has tasks before anybody makes it", reason="namespace"
            )
        return fd

    def _setns(self, task: NewTask, fd: int, kind: int) -> None:
        (number,) = task.receive(self._channel, [fd])
        batch = Batch()
        batch.call("setns", number, kind)
        batch.call("close", number)
        task.do(batch)


def _check_ids(task: NewTask) -> None:
    ids = proc_task.status(task.pid, task.tid).ns_pids[-len(task.ids) :]
    if ids != task.ids:
        raise RestoreError(f"cannot make task {task.ids[0]}: got {ids[0]}", reason="pid-taken")


def taken_ids(
    namespaces: NewNamespaces, lines: Iterable[tuple[int, tuple[int, ...]]]
) -> dict[int, set[int]]:
    """Ids by pid namespace, from (pid namespace, ids from the container's down)."""
    found: dict[int, set[int]] = {}
    for pid_ns, ids in lines:
        for level, number in zip(namespaces.levels(pid_ns), ids, strict=False):
            found.setdefault(level, set()).add(number)
    return found
