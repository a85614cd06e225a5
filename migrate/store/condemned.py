"""Condemned packs: those that a prune is going to remove, or has removed.

A pack whose id is in such an object is *masked*: no new snapshot relies on it. Ids are random and
never used again, and a condemned pack is never pardoned, so what these objects say stays true
whatever other hosts do at the same time; what is still needed of a condemned pack is copied into
another one before it goes.

The first part is a msgpack map: ``packs`` (bytes, the ids one after another), ``created_ns``
(wall-clock time, UTC), ``blockers`` (nil, or bytes: ids of the locks that were there when the
packs had been condemned; their holders may have seen the index before) and ``gone`` (boolean:
the packs were removed; the object stays as a memory of them).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from formats import wire
from formats.errors import ImageCorruptError
from migrate.errors import StoreError
from migrate.store.backend import Backend
from migrate.store.objects import (
    FOLDERS,
    ID_SIZE,
    Kind,
    damaged,
    id_from,
    name_of,
    pack_object,
    read_object,
)
from migrate.store.sealing import Seal

MAX_PACKS = 1 << 17  # of one object
_ATTEMPTS = 5


@dataclass(slots=True)
class Condemned:
    """One such object.

    Attributes:
        packs: Ids.
        blockers: Ids of the locks to wait for; None when they have not been noted yet.
        gone: Whether the packs were removed.
        created_ns: Wall-clock time, UTC.
        object_id: Its own id.
    """

    packs: tuple[bytes, ...]
    blockers: tuple[bytes, ...] | None = None
    gone: bool = False
    created_ns: int = field(default_factory=time.time_ns)
    object_id: bytes = field(default_factory=lambda: os.urandom(ID_SIZE))

    def write(self, backend: Backend, seal: Seal) -> None:
        """Make or replace the object."""
        payload = wire.pack(
            {
                "packs": b"".join(self.packs),
                "created_ns": self.created_ns,
                "blockers": None if self.blockers is None else b"".join(self.blockers),
                "gone": self.gone,
            }
        )
        raw = pack_object(seal, Kind.CONDEMNED, self.object_id, payload)
        backend.put(name_of(Kind.CONDEMNED, self.object_id), raw)


def read_condemned(backend: Backend, seal: Seal) -> list[Condemned]:
    """All condemned objects. StoreError when one cannot be read: then nobody may write."""
    for attempt in range(_ATTEMPTS):
        found = []
        try:
            for entry in backend.entries(FOLDERS[Kind.CONDEMNED]):
                object_id = id_from(Kind.CONDEMNED, entry.name)
                if object_id is not None:
                    payload, _ = read_object(backend, seal, Kind.CONDEMNED, object_id)
                    found.append(_unpack(payload, object_id, entry.name))
            break
        except StoreError as exc:
            # Merged into another one a moment ago, which is not among those we have.
            if exc.reason != "object-missing" or attempt == _ATTEMPTS - 1:
                raise
    return found


def masked_packs(condemned: Iterable[Condemned]) -> set[bytes]:
    """The ids of all condemned packs."""
    return {pack_id for one in condemned for pack_id in one.packs}


def _unpack(payload: bytes, object_id: bytes, name: str) -> Condemned:
    try:
        value = wire.unpack(payload)
    except ImageCorruptError as exc:
        raise damaged(name, str(exc)) from None
    match value:
        case {
            "packs": bytes(packs),
            "created_ns": int(created_ns),
            "blockers": (bytes() | None) as blockers,
            "gone": bool(gone),
        }:
            return Condemned(
                _ids(packs, name),
                None if blockers is None else _ids(blockers, name),
                gone,
                created_ns,
                object_id,
            )
    raise damaged(name, "is malformed")


def _ids(raw: bytes, name: str) -> tuple[bytes, ...]:
    if len(raw) % ID_SIZE:
        raise damaged(name, "ends inside an id")
    return tuple(raw[at : at + ID_SIZE] for at in range(0, len(raw), ID_SIZE))
