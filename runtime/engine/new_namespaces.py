"""Nested namespaces, made anew: by short-lived processes of ours that stand where the makers stood.

A namespace belongs to the user namespace that its maker was in, so user namespaces come first, from
the outside in, and a maker joins one before it makes what that one owns. The makers start from the
sandbox's own namespaces, whose content new ones copy. A pid namespace is made by the process that
makes its init (`runtime.engine.placement`).
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from formats.records.sandbox import Namespace, TimeNamespace, UserNamespace
from formats.records.task import Process, Thread
from runtime.errors import RestoreError
from runtime.kernel import id_maps, prctl
from runtime.kernel.clone import CLONE_NEWUSER
from runtime.kernel.namespaces import NAMESPACE_FLAGS, open_namespace, setns, unshare
from runtime.kernel.proc_task import clock_offsets

SECBIT_NO_SETUID_FIXUP = 1 << 2  # include/uapi/linux/securebits.h
_OF_SANDBOX = ("mnt", "net", "uts", "ipc", "cgroup", "user")  # the last may take privileges away


class NewNamespaces:
    """The namespaces of a container that is being rebuilt.

    Args:
        namespaces: From the image.
        users: What the nested user namespaces are made of.
        times: The same of nested time namespaces.
        init_pid: The init of the new sandbox.
    """

    def __init__(
        self,
        namespaces: Sequence[Namespace],
        users: Sequence[UserNamespace],
        times: Sequence[TimeNamespace],
        init_pid: int,
    ) -> None:
        self._records = {namespace.ns_id: namespace for namespace in namespaces}
        self._users = {user.ns_id: user for user in users}
        self._times = {time.ns_id: time for time in times}
        self._own = {n.kind: n.ns_id for n in namespaces if n.own}
        self._init_pid = init_pid
        self._clocks = clock_offsets(init_pid)
        self._fds: dict[int, int] = {}

    # Records

    def own(self, kind: str) -> int:
        """Id of the sandbox's namespace of a kind; 0 where no task of the image is in it."""
        return self._own.get(kind, 0)

    @property
    def any_nested_user(self) -> bool:
        """Whether there are tasks with fewer privileges than ours over the container."""
        return bool(self._users)

    def record(self, ns_id: int) -> Namespace:
        """A namespace's record."""
        try:
            return self._records[ns_id]
        except KeyError:
            raise RestoreError(
                f"the image names namespace {ns_id}, which it does not hold",
                reason="image-inconsistent",
            ) from None

    def wanted(self, task: Process | Thread) -> dict[str, int]:
        """The namespace of each kind that a task is in."""
        found = {kind: self.own(kind) for kind in NAMESPACE_FLAGS}
        for ns_id in task.namespaces or ():
            found[self.record(ns_id).kind] = ns_id
        return found

    def owner(self, ns_id: int) -> int:
        """Id of the user namespace that owns one; that of the sandbox for whatever is above."""
        return (self.record(ns_id).user_ns if ns_id else 0) or self.own("user")

    def levels(self, pid_ns: int) -> list[int]:
        """Pid namespaces from the sandbox's down to *pid_ns*."""
        line = [pid_ns]
        while line[0] != self.own("pid"):
            above = self.record(line[0]).parent
            if not above or above in line:
                raise RestoreError(
                    f"pid namespace {pid_ns} does not lie below the container's",
                    reason="image-inconsistent",
                )
            line.insert(0, above)
        return line

    def user(self, ns_id: int) -> UserNamespace:
        """What a nested user namespace is made of."""
        try:
            return self._users[ns_id]
        except KeyError:
            raise RestoreError(
                f"the image lacks the id maps of user namespace {ns_id}",
                reason="image-inconsistent",
            ) from None

    def id_inside(self, user_ns: int, kind: str, number: int) -> int | None:
        """What a user namespace calls a user ("uid") or group ("gid") id of the container."""
        if user_ns == self.own("user"):
            return number
        above = self.record(user_ns).parent or self.own("user")
        outer = self.id_inside(above, kind, number)
        user = self.user(user_ns)
        lines = [
            (r.inside, r.outside, r.count) for r in (user.uids if kind == "uid" else user.gids)
        ]
        return None if outer is None else id_maps.inside(lines, outer)

    # Descriptors

    def fd(self, ns_id: int) -> int | None:
        """Our descriptor of a namespace; None for one that is still to be made."""
        if ns_id not in self._fds and self.record(ns_id).own:
            self._fds[ns_id] = open_namespace(self._init_pid, self.record(ns_id).kind)
        return self._fds.get(ns_id)

    def adopt(self, ns_id: int, pid: int, link: str) -> None:
        """Take a namespace that a task has made."""
        self._fds[ns_id] = open_namespace(pid, link)

    def close(self) -> None:
        """Close our descriptors; what no task is in ends."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    # Making

    def make(self, left_to_tasks: set[int], enter_cgroups: Callable[[int, int], None]) -> None:
        """Make every nested namespace but the pid namespaces.

        Args:
            left_to_tasks: Others that are not to be made either.
            enter_cgroups: Puts a process where a cgroup namespace has its root; called with the
                id of that and a pid of ours.
        """
        for ns_id in self._own.values():
            self.fd(ns_id)
        for user_ns in (self.own("user"), *self._outside_in()):
            self._make_owned(user_ns, left_to_tasks, enter_cgroups)

    def _outside_in(self) -> Iterator[int]:
        """The nested user namespaces, parents first."""
        done = {self.own("user")}
        waiting = list(self._users)
        while waiting:
            ready = [n for n in waiting if (self.record(n).parent or self.own("user")) in done]
            if not ready:
                raise RestoreError(
                    "user namespaces of the image lie in each other", reason="image-inconsistent"
                )
            for ns_id in ready:
                yield ns_id
                done.add(ns_id)
                waiting.remove(ns_id)

    def _make_owned(
        self,
        user_ns: int,
        left_to_tasks: set[int],
        enter_cgroups: Callable[[int, int], None],
    ) -> None:
        """Make a user namespace, if it is nested, and what it owns."""
        owned = [
            record
            for record in self._records.values()
            if not record.own
            and record.kind not in ("user", "pid")
            and record.ns_id not in left_to_tasks
            and self.owner(record.ns_id) == user_ns
        ]
        nested = user_ns != self.own("user")
        if not owned and not nested:
            return
        with self._maker() as maker:
            if nested:
                self._make_user(maker, user_ns)
            for record in owned:
                if record.kind == "cgroup":
                    enter_cgroups(record.ns_id, maker.pid)
                maker.unshare(NAMESPACE_FLAGS[record.kind])
                link = "time_for_children" if record.kind == "time" else record.kind
                self.adopt(record.ns_id, maker.pid, link)
                if record.kind == "time":
                    self.set_clocks(record.ns_id, maker.pid)

    def _make_user(self, maker: _Maker, user_ns: int) -> None:
        user = self.user(user_ns)
        above = self.record(user_ns).parent or self.own("user")
        parent = self._fds[above]
        if above != self.own("user"):
            # Its group is not remembered, but must be one that the parent has.
            maker.take_group(self._some_group(above))
        maker.become(user.owner)
        if above != self.own("user"):
            maker.join(parent)
        maker.unshare(CLONE_NEWUSER)
        self.adopt(user_ns, maker.pid, "user")
        maps = id_maps.IdMaps(
            tuple((r.inside, r.outside, r.count) for r in user.uids),
            tuple((r.inside, r.outside, r.count) for r in user.gids),
            user.setgroups,
        )
        id_maps.write(maker.pid, parent, maps)

    def _some_group(self, user_ns: int) -> int:
        """A group id of the container that a nested user namespace has."""
        number = next((line.outside for line in self.user(user_ns).gids), 0)
        above = self.record(user_ns).parent or self.own("user")
        while above != self.own("user"):
            lines = ((r.inside, r.outside, r.count) for r in self.user(above).gids)
            number = id_maps.outside(lines, number) or 0
            above = self.record(above).parent or self.own("user")
        return number

    def set_clocks(self, ns_id: int, pid: int) -> None:
        """Let the clocks of a time namespace without any task go on; for *pid*'s children."""
        ahead = self._times.get(ns_id)
        if ahead is None:
            return
        own = self._clocks
        lines = (
            f"{name} {total // 10**9} {total % 10**9}\n"
            for name, total in (
                ("monotonic", own[0] + ahead.monotonic_ns),
                ("boottime", own[1] + ahead.boottime_ns),
            )
        )
        fd = os.open(f"/proc/{pid}/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, "".join(lines).encode())
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _maker(self) -> Iterator[_Maker]:
        with contextlib.ExitStack() as opened:
            fds = []
            for kind in _OF_SANDBOX:
                fd = open_namespace(self._init_pid, kind)
                opened.callback(os.close, fd)
                if not os.path.samestat(os.stat(f"/proc/self/ns/{kind}"), os.fstat(fd)):
                    fds.append(fd)
            maker = _Maker()
            try:
                for fd in fds:
                    maker.join(fd)
                yield maker
            finally:
                maker.end()


class _Maker:
    """A forked process that joins and makes namespaces as it is told, and then ends."""

    _ORDER = struct.Struct("<Bq")

    def __init__(self) -> None:
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._orders)
            self._serve(orders, answers)
        os.close(orders)
        os.close(answers)

    def join(self, fd: int) -> None:
        """Join a namespace; *fd* must have been open before the fork."""
        self._tell(b"j", fd)

    def unshare(self, kind: int) -> None:
        """Make a new namespace of a kind."""
        self._tell(b"u", kind)

    def become(self, uid: int) -> None:
        """Take an effective user id and keep all privileges."""
        self._tell(b"b", uid)

    def take_group(self, gid: int) -> None:
        """Take an effective group id."""
        self._tell(b"g", gid)

    def _tell(self, what: bytes, argument: int) -> None:
        os.write(self._orders, self._ORDER.pack(what[0], argument))
        answer = os.read(self._answers, 4)
        error = int.from_bytes(answer, "little") if answer else -1
        if error:
            raise RestoreError(
                f"cannot make a nested namespace: {os.strerror(error)}", reason="namespace"
            )

    def end(self) -> None:
        """Let it end."""
        os.close(self._orders)
        os.close(self._answers)
        os.waitpid(self.pid, 0)

    def _serve(self, orders: int, answers: int) -> NoReturn:
        try:
            while order := os.read(orders, self._ORDER.size):
                what, argument = self._ORDER.unpack(order)
                try:
                    self._obey(bytes([what]), argument)
                    error = 0
                except OSError as exc:
                    error = exc.errno or 1
                os.write(answers, error.to_bytes(4, "little"))
        finally:
            os._exit(0)

    @staticmethod
    def _obey(what: bytes, argument: int) -> None:
        if what == b"j":
            setns(argument, 0)
        elif what == b"u":
            unshare(argument)
        elif what == b"g":
            os.setresgid(-1, argument, -1)
        else:
            prctl.prctl(prctl.PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
            os.setresuid(-1, argument, -1)
            prctl.set_dumpable(True)
