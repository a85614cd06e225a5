"""Packs: chunks, many to an object, each of which can be read alone.

A pack's first part is its table (`migrate.store.index`), so that an index can be made anew from the
packs alone; its second is the bodies, one after another, each protected for itself.
"""

from __future__ import annotations

import os

from formats.external import Body
from migrate.store.backend import Backend
from migrate.store.index import (
    COMPRESSED,
    MAX_PACK_SIZE,
    Entry,
    Location,
    PackInfo,
    Section,
    pack_table,
    unpack_table,
)
from migrate.store.objects import (
    HEADER_SIZE,
    ID_SIZE,
    MAX_FIRST_SIZE,
    Kind,
    damaged,
    name_of,
    open_part,
    pack_header,
    unpack_header,
)
from migrate.store.sealing import Bytes, Seal

PACK_SIZE = 16 << 20  # a pack is closed when its bodies pass this


class PackBuilder:
    """A pack while it fills, in memory."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal
        self.pack_id = os.urandom(ID_SIZE)
        self._bodies = bytearray()
        self._entries: list[Entry] = []

    @property
    def full(self) -> bool:
        """Whether it should be closed."""
        return len(self._bodies) >= PACK_SIZE

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, chunk_id: bytes, body: Bytes, plain_size: int, *, compressed: bool) -> int:
        """Add a chunk; the bytes that it takes."""
        offset = len(self._bodies)
        sealed = self._seal.seal_body(self.pack_id, offset, body)
        self._bodies += sealed
        flags = COMPRESSED if compressed else 0
        self._entries.append(Entry(chunk_id, offset, len(sealed), plain_size, flags))
        return len(sealed)

    def write(self, backend: Backend) -> Section:
        """Put the pack into the store.

        Returns:
            What the index has to say of it.
        """
        table = self._seal.seal_part(Kind.PACK, self.pack_id, 0, pack_table(self._entries))
        head = pack_header(self._seal, Kind.PACK, self.pack_id, len(table), len(self._bodies))
        backend.put(name_of(Kind.PACK, self.pack_id), head + table + self._bodies)
        return PackInfo(self.pack_id, len(table), len(self._bodies)), self._entries


def body_of(seal: Seal, where: Location, stored: Bytes) -> Body:
    """Open a chunk's stored bytes; ImageCorruptError when they are not what was sealed there."""
    opened = seal.open_body(where.pack.pack_id, where.offset, stored)
    return Body(opened, bool(where.flags & COMPRESSED))


def read_body(backend: Backend, seal: Seal, where: Location) -> Body:
    """Fetch one chunk with one read."""
    name = name_of(Kind.PACK, where.pack.pack_id)
    stored = backend.get(name, where.pack.bodies_at + where.offset, where.stored_size)
    return body_of(seal, where, stored)


def read_pack(
    backend: Backend, seal: Seal, pack_id: bytes, size: int
) -> tuple[PackInfo, list[Entry], memoryview]:
    """Fetch a whole pack; its table and its bodies, still closed.

    Args:
        backend, seal: The store's.
        pack_id: Of the pack.
        size: Bytes, as the listing says.

    Raises:
        StoreError: ``store-damaged`` among others.
    """
    name = name_of(Kind.PACK, pack_id)
    if size > HEADER_SIZE + MAX_FIRST_SIZE + MAX_PACK_SIZE:
        raise damaged(name, f"has {size} bytes")
    raw = backend.get(name, 0, size)
    header = unpack_header(seal, Kind.PACK, pack_id, raw, name=name)
    if header.object_size != size:
        raise damaged(name, f"has {size} bytes, its header says {header.object_size}")
    info = PackInfo(pack_id, header.first_size, header.second_size)
    table = open_part(seal, Kind.PACK, pack_id, 0, raw[HEADER_SIZE : info.bodies_at], name=name)
    entries = unpack_table(table, header.second_size, name=name)
    return info, entries, memoryview(raw)[info.bodies_at :]
