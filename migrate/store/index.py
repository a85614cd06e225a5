"""The index: which pack has which chunk.

The first part of an index object is one section for each pack that it tells of, little-endian:

size  field
16    id of the pack
4     count of chunks
4     bytes of the pack's table as stored
8     bytes of the pack's bodies as stored

then, for each of its chunks in the order of their bodies, an entry:

size  field
32    name of the chunk
4     offset of its body from the first body of the pack
4     bytes of its body as stored
4     bytes of the chunk once opened and decompressed, 1 to 1 048 576
4     flags: bit 0 set when the body is compressed

Index objects only ever add: what one says of a pack stays true as long as the pack is there. A pack
that is going to be removed is named in a *condemned* object first (`migrate.store.condemned`).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from formats.limits import CHUNK_SIZE
from migrate.store.name_table import NAME_SIZE, NameTable
from migrate.store.objects import HEADER_SIZE, ID_SIZE, damaged

COMPRESSED = 1
MAX_PACK_SIZE = 64 << 20  # bodies; a writer closes a pack when it passes PACK_SIZE
MAX_SEALED_EXTRA = 64  # bytes that protection may add to a body

_SECTION = struct.Struct("<16sIIQ")
_ENTRY = struct.Struct("<32sIIII")
ENTRY_SIZE = _ENTRY.size
MAX_INDEX_BLOCK = 16 << 20  # a writer begins another object beyond this


class Entry(NamedTuple):
    """One chunk in a pack."""

    chunk_id: bytes
    offset: int
    stored_size: int
    plain_size: int
    flags: int


class PackInfo(NamedTuple):
    """A pack, as the index knows it.

    Attributes:
        pack_id: 16 bytes.
        table_size, bodies_size: Bytes as stored.
    """

    pack_id: bytes
    table_size: int
    bodies_size: int

    @property
    def size(self) -> int:
        """Bytes of the whole object."""
        return HEADER_SIZE + self.table_size + self.bodies_size

    @property
    def bodies_at(self) -> int:
        """Where the first body is."""
        return HEADER_SIZE + self.table_size


class Location(NamedTuple):
    """Where a chunk is."""

    pack: PackInfo
    offset: int
    stored_size: int
    plain_size: int
    flags: int


Section = tuple[PackInfo, list[Entry]]


def pack_section(info: PackInfo, entries: Iterable[Entry]) -> bytes:
    """One pack's part of an index object."""
    table = pack_table(entries)
    head = _SECTION.pack(info.pack_id, len(table) // ENTRY_SIZE, info.table_size, info.bodies_size)
    return head + table


def pack_table(entries: Iterable[Entry]) -> bytes:
    """Entries alone: the table of a pack."""
    return b"".join([_ENTRY.pack(*entry) for entry in entries])


def unpack_table(raw: bytes, bodies_size: int, *, name: str) -> list[Entry]:
    """Read and judge the entries of one pack; StoreError ``store-damaged``."""
    if len(raw) % ENTRY_SIZE:
        raise damaged(name, "ends inside an entry")
    entries = [Entry(*fields) for fields in _ENTRY.iter_unpack(raw)]
    end = 0
    for entry in entries:
        if entry.offset != end or not 0 < entry.plain_size <= CHUNK_SIZE:
            raise damaged(name, f"has an entry at {entry.offset} of {entry.plain_size} bytes")
        if entry.flags & ~COMPRESSED or entry.stored_size > entry.plain_size + MAX_SEALED_EXTRA:
            raise damaged(name, f"has an entry of {entry.stored_size} bytes, {entry.flags:#x}")
        end += entry.stored_size
    if end != bodies_size or end > MAX_PACK_SIZE:
        raise damaged(name, f"has entries for {end} bytes, the pack has {bodies_size}")
    return entries


def for_each_section(raw: bytes, *, name: str) -> Iterator[Section]:
    """The packs of an index object; StoreError ``store-damaged``."""
    at = 0
    while at < len(raw):
        if at + _SECTION.size > len(raw):
            raise damaged(name, "ends inside a section")
        pack_id, count, table_size, bodies_size = _SECTION.unpack_from(raw, at)
        at += _SECTION.size
        end = at + count * ENTRY_SIZE
        if end > len(raw) or len(pack_id) != ID_SIZE:
            raise damaged(name, "ends inside a section")
        yield (
            PackInfo(pack_id, table_size, bodies_size),
            unpack_table(raw[at:end], bodies_size, name=name),
        )
        at = end


# A location as one integer: a store has 130 thousand chunks for each gibibyte, and a tuple of
# integers takes several times the memory. From the lowest bit: flags, plain size, stored size,
# offset in the pack, number of the pack.
_FLAG_BITS, _SIZE_BITS, _OFFSET_BITS = 1, 21, 27
_SIZE_MASK = (1 << _SIZE_BITS) - 1
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
_STORED_AT = _FLAG_BITS + _SIZE_BITS
_OFFSET_AT = _STORED_AT + _SIZE_BITS
_PACK_AT = _OFFSET_AT + _OFFSET_BITS
_PACKED_SIZE = 12  # bytes: as many bits, and 67 million packs
MANY = 500_000
"""Chunks that are held in memory, where they are found ten times as fast; beyond that none is."""
_BATCH = 200_000


class ChunkMap:
    """All that the index objects say together.

    Attributes:
        packs: By id.
        masked: Ids of condemned packs: chunks are read from them when nothing else has them,
            and never count as stored already.
        by_object: Packs that each index object tells of.
    """

    def __init__(self, masked: Iterable[bytes] = ()) -> None:
        self.packs: dict[bytes, PackInfo] = {}
        self.masked = frozenset(masked)
        self.by_object: dict[bytes, list[bytes]] = {}
        self._order: list[PackInfo] = []
        self._masked_numbers: set[int] = set()
        self._where: dict[bytes, int] = {}  # as above
        self._table: NameTable | None = None  # instead of that, once there are many
        self._batch: list[bytes] = []

    def add(self, index_id: bytes, sections: Iterable[Section]) -> None:
        """Take in one index object."""
        told = self.by_object.setdefault(index_id, [])
        for info, entries in sections:
            told.append(info.pack_id)
            if info.pack_id in self.packs:
                continue  # two objects may tell of the same pack
            self.packs[info.pack_id] = info
            masked = info.pack_id in self.masked
            number = len(self._order)
            self._order.append(info)
            if masked:
                self._masked_numbers.add(number)
            if self._table is None:
                self._add_few(number, entries, masked=masked)
            else:
                self._add_many(number, entries)
        self._flush()

    def _add_few(self, number: int, entries: Iterable[Entry], *, masked: bool) -> None:
        where = self._where
        for chunk_id, offset, stored_size, plain_size, flags in entries:
            known = where.get(chunk_id)
            if known is not None and (masked or known >> _PACK_AT not in self._masked_numbers):
                continue
            sizes = stored_size << _STORED_AT | plain_size << _FLAG_BITS | flags
            where[chunk_id] = number << _PACK_AT | offset << _OFFSET_AT | sizes
        if len(where) >= MANY:
            self._table = NameTable(NAME_SIZE + _PACKED_SIZE)
            self._batch = [
                name + packed.to_bytes(_PACKED_SIZE, "big") for name, packed in where.items()
            ]
            self._where = {}
            self._flush()

    def _add_many(self, number: int, entries: Iterable[Entry]) -> None:
        at = number << _PACK_AT
        self._batch += [
            chunk_id
            + (
                at
                | offset << _OFFSET_AT
                | stored_size << _STORED_AT
                | plain_size << _FLAG_BITS
                | flags
            ).to_bytes(_PACKED_SIZE, "big")
            for chunk_id, offset, stored_size, plain_size, flags in entries
        ]
        if len(self._batch) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._batch and self._table is not None:
            self._table.add(self._batch)
            self._batch = []

    def __len__(self) -> int:
        return len(self._where) if self._table is None else len(self._table)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._where) if self._table is None else iter(self._table)

    def find(self, chunk_id: bytes) -> Location | None:
        """Where to read a chunk."""
        found = self._packed(chunk_id)
        return None if found is None else self._location(found)

    def has(self, chunk_id: bytes) -> bool:
        """Whether a new snapshot may rely on a chunk: it is in a pack that is here to stay."""
        found = self._packed(chunk_id)
        return found is not None and found >> _PACK_AT not in self._masked_numbers

    def entries_of(self, packs: Collection[bytes]) -> dict[bytes, list[Entry]]:
        """The chunks that are read from some packs; a look at the whole index."""
        found: dict[bytes, list[Entry]] = {pack_id: [] for pack_id in packs}
        if not found:
            return found
        for chunk_id, packed in self._items():
            pack_id = self._order[packed >> _PACK_AT].pack_id
            if pack_id in found:
                found[pack_id].append(Entry(chunk_id, *self._location(packed)[1:]))
        return found

    def _packed(self, chunk_id: bytes) -> int | None:
        if self._table is None:
            return self._where.get(chunk_id)
        return self._best([int.from_bytes(raw, "big") for raw in self._table.find(chunk_id)])

    def _best(self, places: Sequence[int]) -> int | None:
        """Of several places of a chunk the one that counts: as in `_add_few`."""
        if not self._masked_numbers:
            return places[0] if places else None
        for packed in places:
            if packed >> _PACK_AT not in self._masked_numbers:
                return packed
        return places[0] if places else None

    def _items(self) -> Iterator[tuple[bytes, int]]:
        if self._table is None:
            yield from self._where.items()
            return
        by_name = itertools.groupby(self._table.records(), lambda record: record[:NAME_SIZE])
        for chunk_id, records in by_name:
            best = self._best([int.from_bytes(one[NAME_SIZE:], "big") for one in records])
            assert best is not None
            yield chunk_id, best

    def _location(self, packed: int) -> Location:
        return Location(
            self._order[packed >> _PACK_AT],
            packed >> _OFFSET_AT & _OFFSET_MASK,
            packed >> _STORED_AT & _SIZE_MASK,
            packed >> _FLAG_BITS & _SIZE_MASK,
            packed & 1,
        )
