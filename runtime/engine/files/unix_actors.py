"""Who makes a connection at a restore: the kernel notes the caller's pid, ids and groups for good.

socketpair(2), listen(2) and connect(2) make such a note, which SO_PEERCRED shows to the other side.
So these calls are made by the task with the right pid, under the right ids for the length of a
batch; by a helper that takes the pid of a process that is gone; or by us, whose pid nobody inside
can see, for a peer that was outside.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Sequence

from formats.records.unix import UnixCredentials
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.unix_names import Node
from runtime.engine.helpers import end_helper, make_helper
from runtime.engine.new_task import NewTask
from runtime.engine.remote import Batch, Out, Result
from runtime.kernel import pidfd, proc_task
from runtime.kernel.clone import CLONE_NEWNET
from runtime.kernel.prctl import PR_SET_SECUREBITS
from runtime.kernel.visit import visiting_path

SECBIT_NO_SETUID_FIXUP = 1 << 2  # include/uapi/linux/securebits.h: capabilities stay
SOCK_CLOEXEC = socket.SOCK_CLOEXEC
_UNCHANGED = 2**32 - 1
_AT_ONCE = 200  # sockets of one batch, below the default limit of open files


class Actors:
    """The tasks that act, by credentials.

    Args:
        files: The restore.
    """

    def __init__(self, files: RestoredFiles) -> None:
        self._files = files
        self._helpers: dict[int, NewTask] = {}
        self._pidfds: dict[int, int] = {}
        self._groups: tuple[int, ...] | None = None

    def close(self) -> None:
        """End the helpers."""
        for helper in self._helpers.values():
            end_helper(self._files, helper)
        for fd in self._pidfds.values():
            os.close(fd)
        self._helpers.clear()
        self._pidfds.clear()

    def task(self, ns_pid: int) -> NewTask | None:
        """The task that has a pid, living or stood in for; None for a pid outside."""
        if not ns_pid:
            return None
        for task in self._files.tracees.values():
            if task.ns_pid == ns_pid:
                return task
        if ns_pid in self._files.tids:
            # A zombie-to-be, or a thread whose number was a process's before.
            return self._files.init
        if ns_pid not in self._helpers:
            self._helpers[ns_pid] = make_helper(self._files, ns_pid)
        return self._helpers[ns_pid]

    # What they do

    def pairs(
        self, kind: int, who: UnixCredentials, count: int, home: str
    ) -> list[tuple[int, int]]:
        """Make *count* socket pairs; descriptors of ours.

        Args:
            home: Their network namespace, as a path of ours.
        """
        task = self.task(who.pid)
        made: list[tuple[int, int]] = []
        if task is None:
            with visiting_path(home, "net"):
                for _ in range(count):
                    first, second = socket.socketpair(socket.AF_UNIX, kind)
                    made.append((first.detach(), second.detach()))
            return made
        for first_index in range(0, count, _AT_ONCE):
            rooms: list[Out] = []

            def add(
                batch: Batch, rooms: list[Out] = rooms, left: int = count - first_index
            ) -> None:
                for _ in range(min(left, _AT_ONCE)):
                    rooms.append(batch.out(8))
                    batch.call("socketpair", socket.AF_UNIX, kind | SOCK_CLOEXEC, 0, rooms[-1])

            answers = task.do(self._as(who, add, task, home))
            numbers = [n for room in rooms for n in struct.unpack("ii", answers.read(room))]
            ours = self._take(task, numbers)
            made += zip(ours[::2], ours[1::2], strict=True)
        return made

    def listen(self, fd: int, backlog: int, who: UnixCredentials | None) -> None:
        """Make a socket of ours listen."""
        task = self.task(who.pid) if who is not None else None
        if task is None or who is None:
            with socket.socket(fileno=os.dup(fd)) as sock:
                sock.listen(backlog)
            return
        (number,) = task.receive(self._files.channel, [fd])

        def add(batch: Batch) -> None:
            batch.call("listen", number, backlog)

        task.do(self._as(who, add))
        task.call("close", number)

    def connect(
        self,
        kind: int,
        name: bytes,
        node: Node | None,
        who: UnixCredentials | None,
        count: int,
        home: str,
    ) -> list[int]:
        """Make *count* sockets that are connected to *name*, or to the file *node*."""
        task = self.task(who.pid) if who is not None else None
        made: list[int] = []
        if task is None or who is None:
            with visiting_path(home, "net"):
                for _ in range(count):
                    sock = socket.socket(socket.AF_UNIX, kind)
                    sock.connect(name if node is None else node.address)
                    made.append(sock.detach())
            return made
        clients: list[Result] = []
        directory = None
        address = name
        if node is not None:
            # As seen from its directory: this works under any root, and for a file without a name.
            (directory,) = task.receive(self._files.channel, [node.directory])
            task.call("fchdir", directory)
            task.call("close", directory)
            address = os.fsencode(node.name) + b"\0"
        packed = struct.pack("H", socket.AF_UNIX) + address

        def add(batch: Batch) -> None:
            for _ in range(count):
                client = batch.call("socket", socket.AF_UNIX, kind | SOCK_CLOEXEC, 0)
                batch.call("connect", client, packed, len(packed))
                clients.append(client)

        answers = task.do(self._as(who, add, task, home))
        return self._take(task, [answers[client] for client in clients])

    def _as(
        self,
        who: UnixCredentials,
        add: Callable[[Batch], None],
        task: NewTask | None = None,
        home: str = "",
    ) -> Batch:
        """A batch whose calls are made under given ids, in the network namespace *home*."""
        if self._groups is None:
            self._groups = proc_task.status(self._files.init.tid).ints("Groups")
        batch = Batch()
        way = () if task is None else self._way(task, home)
        if way:
            batch.call("setns", way[0], CLONE_NEWNET)
        plain = (who.uid, who.gid, tuple(who.groups)) == (0, 0, self._groups)
        if not plain:
            batch.call("prctl", PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
            _add_groups(batch, who.groups)
            batch.call("setresgid", _UNCHANGED, who.gid, _UNCHANGED)
            batch.call("setresuid", _UNCHANGED, who.uid, _UNCHANGED)
        add(batch)
        if not plain:
            batch.call("setresuid", _UNCHANGED, 0, _UNCHANGED)
            batch.call("setresgid", _UNCHANGED, 0, _UNCHANGED)
            _add_groups(batch, self._groups)
            batch.call("prctl", PR_SET_SECUREBITS, 0)
        if way:
            batch.call("setns", way[1], CLONE_NEWNET)
        for number in way:
            batch.call("close", number)
        return batch

    def _way(self, task: NewTask, home: str) -> tuple[int, ...]:
        """A task's descriptors of a network namespace and of its own; none if it is there."""
        own = f"/proc/{task.tid}/ns/net"
        if os.path.samefile(own, home):
            return ()
        ours = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in (home, own)]
        try:
            return tuple(task.receive(self._files.channel, ours))
        finally:
            for fd in ours:
                os.close(fd)

    def _take(self, task: NewTask, numbers: Sequence[int]) -> list[int]:
        """Move descriptors of a task into ours."""
        if task.pid not in self._pidfds:
            self._pidfds[task.pid] = pidfd.open_pidfd(task.pid)
        ours = [pidfd.get_fd(self._pidfds[task.pid], number) for number in numbers]
        batch = Batch()
        for number in numbers:
            batch.call("close", number)
        task.do(batch)
        return ours


def _add_pairs(kind: int, count: int, rooms: list[Out], batch: Batch) -> None:
    for _ in range(count):
        rooms.append(batch.out(8))
        batch.call("socketpair", socket.AF_UNIX, kind | SOCK_CLOEXEC, 0, rooms[-1])


def _add_groups(batch: Batch, groups: Sequence[int]) -> None:
    packed = struct.pack(f"<{len(groups)}I", *groups)
    batch.call("setgroups", len(groups), packed or b"\0")
