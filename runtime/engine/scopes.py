"""The namespaces that the tasks of a container are in: which there are, and who is in which.

A namespace that the sandbox has made for the container is its *own*: a restore finds it in the new
sandbox. All others are *nested*: programs have made them, and a restore makes them again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from formats.records.codec import Record
from formats.records.sandbox import IdRange, Namespace, TimeNamespace, UserNamespace
from runtime.engine.context import DumpContext
from runtime.engine.sandbox.kind import Scope
from runtime.kernel import id_maps, namespaces, proc_task
from runtime.kernel.away import call_away

SAVED = (
    (
        "nested namespaces",
        "of every kind, in any combination, with their owners and parents; id maps; clock offsets; "
        "pid namespaces several levels deep; those that are only for children; per thread; "
        "containers that are in a user namespace themselves",
    ),
)

KINDS = ("user", "pid", "mnt", "net", "uts", "ipc", "cgroup", "time")
OF_ZOMBIES = ("user", "pid")  # the rest is gone when a task has ended
OVERFLOW_ID = 65534  # /proc/sys/kernel/overflowuid
_IN_SPEC = {"mount": "mnt", "network": "net"}


@dataclass(frozen=True, slots=True)
class TaskScopes:
    """The namespaces of one task.

    Attributes:
        nested: Ids of those that are not the sandbox's own.
        pid_for_children: Id of the pid namespace of its children; 0 for its own.
        time_for_children: Id of the time namespace of its children; 0 for its own.
    """

    nested: tuple[int, ...]
    pid_for_children: int = 0
    time_for_children: int = 0


class Scopes:
    """Finds and names namespaces while a container is looked at.

    Args:
        context: Whose ``scopes`` are filled in.
    """

    def __init__(self, context: DumpContext) -> None:
        self._context = context
        self._made = _made_by_sandbox(context)
        self._above: set[int] = set()
        self._sandbox_maps: dict[str, tuple[id_maps.Line, ...]] = {}
        self._links: dict[int, list[int]] = {}  # ids of owner and parent, see _relate
        self._tasks: dict[int, TaskScopes] = {}
        self._claimed: set[str] = set()
        self._unborn: list[Namespace] = []
        self._held: dict[int, int] = {}  # descriptors of ours, by id
        self._sandbox_user = self._find_sandbox_user()
        self._members: set[int] = set()

    # Looking

    def look(self, tid: int, *, zombie: bool) -> None:
        """Note the namespaces of a task."""
        kinds = OF_ZOMBIES if zombie else KINDS
        within = {kind: self._scope(tid, kind, kind) for kind in kinds}
        if not zombie:
            for kind, scope in within.items():
                if not scope.pid:
                    within[kind] = self._replace(dataclasses.replace(scope, pid=tid, held=""))
        self._members |= {scope.ns_id for scope in within.values()}
        nested = tuple(scope.ns_id for scope in within.values() if not scope.own)
        if zombie:
            self._tasks[tid] = TaskScopes(nested)
            return
        self._tasks[tid] = TaskScopes(
            nested,
            self._for_children(tid, "pid", within["pid"]),
            self._for_children(tid, "time", within["time"]),
        )

    def _for_children(self, tid: int, kind: str, own: Scope) -> int:
        try:
            scope = self._scope(tid, kind, f"{kind}_for_children")
        except FileNotFoundError:
            return self._never_used(tid, own)
        return 0 if scope.ns_id == own.ns_id else scope.ns_id

    def _never_used(self, tid: int, own: Scope) -> int:
        """A pid namespace without any process yet; who owns it, nobody can ask."""
        ns_id = self._context.new_id()
        user = self._scope(tid, "user", "user")
        self._unborn.append(
            Namespace(ns_id, "pid", own=False, external=False, user_ns=user.ns_id, parent=own.ns_id)
        )
        return ns_id

    def _scope(self, tid: int, kind: str, link: str) -> Scope:
        inode = os.stat(f"/proc/{tid}/ns/{link}").st_ino
        known = self._context.scopes.get((kind, inode))
        if known is not None:
            return known
        with _opened(namespaces.open_namespace(tid, link)) as fd:
            return self._add(kind, inode, fd)

    def _add(self, kind: str, inode: int, fd: int) -> Scope:
        own = self._is_own(kind, inode, fd)
        held = os.dup(fd)
        scope = self._replace(
            Scope(
                ns_id=self._context.new_id(),
                kind=kind,
                inode=inode,
                pid=0,
                own=own,
                external=own and kind not in self._made,
                held=f"/proc/self/fd/{held}",
            )
        )
        self._held[scope.ns_id] = held
        self._links[scope.ns_id] = [0, 0]
        if not own:
            self._relate(scope, fd)
        return scope

    def _replace(self, scope: Scope) -> Scope:
        self._context.scopes[scope.kind, scope.inode] = scope
        return scope

    def _relate(self, scope: Scope, fd: int) -> None:
        """Note who owns a nested namespace, and which one it is in."""
        if scope.kind in ("user", "pid"):
            with _opened(namespaces.parent(fd)) as above:
                self._links[scope.ns_id][1] = self._by_fd(scope.kind, above)
        if scope.kind != "user":
            with _opened(namespaces.owner(fd)) as owner:
                self._links[scope.ns_id][0] = self._by_fd("user", owner)

    def hold(self, fd: int) -> Scope:
        """Note a namespace that something else than a task holds."""
        kind, inode = namespaces.kind_of(fd), os.fstat(fd).st_ino
        return self._context.scopes.get((kind, inode)) or self._add(kind, inode, fd)

    def _by_fd(self, kind: str, fd: int) -> int:
        inode = os.fstat(fd).st_ino
        known = self._context.scopes.get((kind, inode))
        return (known or self._add(kind, inode, fd)).ns_id

    def _is_own(self, kind: str, inode: int, fd: int) -> bool:
        if kind == "user":
            return inode == self._sandbox_user or inode in self._above
        if kind == "pid":
            return inode == os.stat(f"/proc/{self._context.target.init_pid}/ns/pid").st_ino
        if kind in self._claimed:
            return False
        try:
            with _opened(namespaces.owner(fd)) as owner:
                inode = os.fstat(owner).st_ino
        except PermissionError:  # above ours
            inode = self._sandbox_user
        # The init may have left the sandbox's; its new one stands in unless it is owned by others.
        if inode != self._sandbox_user and inode not in self._above:
            return False
        self._claimed.add(kind)
        return True

    def _find_sandbox_user(self) -> int:
        """The user namespace that the sandbox has made or joined, or our own."""
        linux = self._context.target.spec.get("linux") or {}
        wanted = any(entry["type"] == "user" for entry in linux.get("namespaces") or [])
        ours = os.stat("/proc/self/ns/user").st_ino
        self._above.add(ours)
        with contextlib.ExitStack() as held:
            fd = namespaces.open_namespace(self._context.target.init_pid, "user")
            held.callback(os.close, fd)
            below = fd
            while os.fstat(fd).st_ino != ours:
                below = fd
                try:
                    fd = namespaces.parent(fd)
                except PermissionError:
                    break
                held.callback(os.close, fd)
            if not wanted:
                return os.fstat(fd).st_ino
            maps = id_maps.read(below)
            self._sandbox_maps = {"uid": maps.uids, "gid": maps.gids}
            return os.fstat(below).st_ino

    # What was found

    def of(self, tid: int) -> TaskScopes:
        """The namespaces of a task that `look` has seen."""
        return self._tasks[tid]

    def records(self) -> Iterator[Record]:
        """A record for each namespace, and what it takes to make the nested ones."""
        own_clocks = own_clock_offsets(self._context.target.init_pid)
        for scope in self._context.scopes.values():
            user, parent = self._links[scope.ns_id]
            yield Namespace(
                scope.ns_id,
                scope.kind,
                scope.own,
                scope.external,
                user,
                parent,
                dead=scope.kind == "pid" and scope.ns_id not in self._members,
            )
            if scope.own:
                continue
            if scope.kind == "user":
                yield self._user_record(scope)
            elif scope.kind == "time":
                clocks = _offsets_of(self._held[scope.ns_id])
                yield TimeNamespace(
                    scope.ns_id, clocks[0] - own_clocks[0], clocks[1] - own_clocks[1]
                )
        yield from self._unborn

    def _user_record(self, scope: Scope) -> UserNamespace:
        fd = self._held[scope.ns_id]
        maps = id_maps.read(fd)
        owner = namespaces.owner_uid(fd)
        return UserNamespace(
            scope.ns_id,
            tuple(IdRange(*line) for line in maps.uids),
            tuple(IdRange(*line) for line in maps.gids),
            maps.setgroups,
            self.to_container("uid", owner),
        )

    def to_container(self, kind: str, number: int) -> int:
        """What the container calls a user ("uid") or group ("gid") id of ours.

        One that it has no name for becomes the overflow id, as which it sees it.
        """
        lines = self._sandbox_maps.get(kind)
        if lines is None:
            return number
        inside = id_maps.inside(lines, number)
        return OVERFLOW_ID if inside is None else inside

    def close(self) -> None:
        """Close what was opened."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()


def own_clock_offsets(pid: int) -> tuple[int, int]:
    """Offsets of the time namespace that a process itself is in."""
    own, children = (os.stat(f"/proc/{pid}/ns/{link}") for link in ("time", "time_for_children"))
    if os.path.samestat(own, children):
        return proc_task.clock_offsets(pid)
    with _opened(namespaces.open_namespace(pid, "time")) as fd:
        return _offsets_of(fd)


def _offsets_of(fd: int) -> tuple[int, int]:
    """Offsets of a time namespace, which only who has children there is shown."""

    def look() -> bytes:
        return struct.pack("qq", *proc_task.clock_offsets("self"))

    monotonic, boottime = struct.unpack("qq", call_away([fd], look))
    return monotonic, boottime


@contextlib.contextmanager
def _opened(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _made_by_sandbox(context: DumpContext) -> set[str]:
    """The kinds of namespace that the sandbox has made for this container alone."""
    linux = context.target.spec.get("linux") or {}
    return {
        _IN_SPEC.get(entry["type"], entry["type"])
        for entry in linux.get("namespaces") or []
        if not entry.get("path")
    }
