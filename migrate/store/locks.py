"""Locks: who is at work in a store, so that nothing is removed under somebody's hands.

A lock is an object ``locks/ID-N``: ID belongs to one piece of work, N grows by one each time its
holder says that it is still there. Writers hold a lock of kind ``write`` and never wait; a pruner
holds one of kind ``prune``, which keeps other pruners out.

A lock that has not been renewed until its expiry may be removed by a pruner. Clocks of hosts differ
and hosts sleep, so nothing may depend on that judgement being right: a holder whose lock was
removed finds out, because renewing needs the old object, and a writer asks once more *after* its
snapshot has appeared (`Lock.require_held`). See docs/architecture.md, "The store".
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from formats import wire
from formats.errors import ImageCorruptError
from migrate.errors import StoreError
from migrate.store.backend import Backend
from migrate.store.objects import FOLDERS, Kind, id_from, pack_object, read_object
from migrate.store.sealing import Seal

WRITE, PRUNE = "write", "prune"
LIFETIME_S = 1800
REFRESH_S = 300


@dataclass(frozen=True, slots=True)
class LockInfo:
    """A lock that somebody holds, or has left behind.

    Attributes:
        lock_id: 16 bytes.
        names: Its objects.
        kind: ``write`` or ``prune``; empty when it cannot be read.
        holder: Host and pid, for people.
        expires_ns: Wall-clock time, UTC.
    """

    lock_id: bytes
    names: tuple[str, ...]
    kind: str
    holder: str
    expires_ns: int

    @property
    def stale(self) -> bool:
        """Whether its holder had to renew it before now."""
        return self.expires_ns < time.time_ns()


def read_locks(backend: Backend, seal: Seal) -> list[LockInfo]:
    """All locks of a store. One that is damaged counts as stale."""
    names: dict[bytes, list[str]] = {}
    for entry in backend.entries(FOLDERS[Kind.LOCK]):
        lock_id = id_from(Kind.LOCK, entry.name)
        if lock_id is not None:
            names.setdefault(lock_id, []).append(entry.name)
    found = []
    for lock_id, objects in names.items():
        last = max(objects, key=_number)
        try:
            first, _ = read_object(backend, seal, Kind.LOCK, lock_id, name=last)
            kind, holder, expires_ns = _unpack(first)
        except StoreError as exc:
            if exc.reason == "object-missing":
                # Released or renewed a moment ago: the newer object tells, if there is one.
                kind, holder, expires_ns = WRITE, "somebody", time.time_ns() + LIFETIME_S * 10**9
            elif exc.reason == "store-unreachable":
                raise
            else:
                kind, holder, expires_ns = "", "somebody", 0
        except ImageCorruptError:
            kind, holder, expires_ns = "", "somebody", 0
        found.append(LockInfo(lock_id, tuple(objects), kind, holder, expires_ns))
    return found


def live_locks(backend: Backend, seal: Seal, own: bytes = b"") -> list[LockInfo]:
    """The locks whose holders may still be at work; stale ones are removed.

    Our own, *own*, is not among them, whatever the time is.

    A holder that renews its lock while we remove the old object is seen, because we look again: so
    of every lock that is not returned it is certain that its holder will find it gone.
    """
    while True:
        locks = [lock for lock in read_locks(backend, seal) if lock.lock_id != own]
        stale = [lock for lock in locks if lock.stale]
        if not stale:
            return locks
        remove_locks(backend, stale)


def remove_locks(backend: Backend, locks: Iterable[LockInfo]) -> None:
    """Take locks away from their holders, who will find out."""
    for lock in locks:
        for name in lock.names:
            backend.remove(name)


class Lock:
    """A lock that we hold; a context manager that gives it back.

    Args:
        backend: The store's objects.
        seal: The store's protection.
        kind: `WRITE` or `PRUNE`.

    Raises:
        StoreError: Reason ``store-locked``: somebody else prunes and so do we want to.
    """

    def __init__(self, backend: Backend, seal: Seal, kind: str) -> None:
        self._backend = backend
        self._seal = seal
        self._kind = kind
        self.lock_id = os.urandom(16)
        self._number = 0
        self._renewed = 0.0
        self._put()
        if kind == PRUNE:
            self._keep_out()

    def refresh(self) -> None:
        """Renew the lock if it is time to.

        Raises:
            StoreError: Reason ``lock-lost``.
        """
        if time.monotonic() - self._renewed < REFRESH_S:
            return
        before = self._name()
        self._number += 1
        self._put()
        self._require(before)
        self._backend.remove(before)

    def require_held(self) -> None:
        """StoreError (``lock-lost``) when somebody has taken the lock away from us."""
        self._require(self._name())

    def release(self) -> None:
        """Give it back. Idempotent."""
        self._backend.remove(self._name())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.release()
        except StoreError as exc:
            if error is None:
                raise
            error.add_note(f"the lock {self._name()} stays until it expires: {exc}")

    def _put(self) -> None:
        payload = wire.pack(
            {
                "kind": self._kind,
                "holder": f"{socket.gethostname()} pid {os.getpid()}",
                "expires_ns": time.time_ns() + LIFETIME_S * 10**9,
            }
        )
        self._backend.put(self._name(), pack_object(self._seal, Kind.LOCK, self.lock_id, payload))
        self._renewed = time.monotonic()

    def _keep_out(self) -> None:
        try:
            others = [
                lock
                for lock in live_locks(self._backend, self._seal, self.lock_id)
                if lock.kind == PRUNE
            ]
        except BaseException:
            self.release()
            raise
        if others:
            self.release()
            raise StoreError(
                f"{self._backend.url}: {others[0].holder} is pruning it; try again later",
                reason="store-locked",
            )

    def _require(self, name: str) -> None:
        if not any(entry.name == name for entry in self._backend.entries(FOLDERS[Kind.LOCK])):
            raise StoreError(
                f"{self._backend.url}: the lock of this command was not renewed in time, and a "
                "prune has removed it; try again",
                reason="lock-lost",
            )

    def _name(self) -> str:
        return f"{FOLDERS[Kind.LOCK]}/{self.lock_id.hex()}-{self._number}"


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _unpack(payload: bytes) -> tuple[str, str, int]:
    match wire.unpack(payload):
        case {"kind": str(kind), "holder": str(holder), "expires_ns": int(expires_ns)}:
            return kind, holder, expires_ns
    raise ImageCorruptError("a lock is malformed")
