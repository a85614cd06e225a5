"""Chunks: pieces of the contents of memory and files.

A chunk belongs to an *object* (the memory of one process, one shared mapping, one file; the records
say which) and covers at most `CHUNK_SIZE` bytes of the object's own address space from *offset*
on. It holds only the *runs* that matter in there, their bytes one after another; what no run covers
reads as zeros (memory) or stays as it is (private file mappings).

A chunk frame's meta is one msgpack array::

    [object_id, offset, [start, length, start, length, …], chunk_id]

with each start relative to *offset*, ascending, not overlapping. The chunk id is the BLAKE3 digest
of the plain bytes: the name under which a store keeps them once, however often they occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from formats import wire
from formats.compression import decompress, decompress_into
from formats.errors import ImageCorruptError
from formats.frames import FLAG_ZSTD, Head, check_body, digest_of
from formats.limits import CHUNK_SIZE, INT_MAX, MAX_RUNS

DIGEST_SIZE = 32


class ChunkMeta(NamedTuple):
    """Where a chunk's bytes belong.

    Attributes:
        object_id: Number of the object, as in the records.
        offset: First byte of the object's address space that the chunk covers.
        runs: (start, length) byte ranges in the object's address space, ascending.
        chunk_id: BLAKE3 of the plain bytes.
    """

    object_id: int
    offset: int
    runs: tuple[tuple[int, int], ...]
    chunk_id: bytes


def runs_problem(offset: int, runs: Sequence[tuple[int, int]]) -> str | None:
    """What is wrong with the runs of a chunk at *offset*, or None."""
    if not runs or len(runs) > MAX_RUNS:
        return f"{len(runs)} runs, 1 to {MAX_RUNS} allowed"
    end = offset
    for start, length in runs:
        if start < end or length <= 0:
            return f"run ({start:#x}, {length}) is empty or out of order"
        end = start + length
    if end > offset + CHUNK_SIZE:
        return f"runs end at {end:#x}, the chunk at {offset + CHUNK_SIZE:#x}"
    return None


def pack_meta(meta: ChunkMeta) -> bytes:
    """The meta of a chunk frame."""
    offset = meta.offset
    flat: list[int] = []
    for start, length in meta.runs:
        flat += (start - offset, length)
    return wire.pack([meta.object_id, offset, flat, meta.chunk_id])


def unpack_meta(data: bytes, plain_size: int) -> ChunkMeta:
    """Read and judge the meta of a chunk frame whose body has *plain_size* bytes.

    Raises:
        ImageCorruptError: Malformed, or the runs do not add up to *plain_size*.
    """
    meta = unpack_meta_value(wire.unpack(data))
    found = sum([length for _, length in meta.runs])
    if found != plain_size:
        raise ImageCorruptError(
            f"chunk {meta.offset:#x} of object {meta.object_id}: runs of {found} bytes for a body "
            f"of {plain_size}"
        )
    return meta


def unpack_meta_value(value: Any) -> ChunkMeta:
    """Judge a meta that was unpacked already; ImageCorruptError when it is malformed."""
    if type(value) is not list or [type(item) for item in value] != [int, int, list, bytes]:
        raise ImageCorruptError("the meta of a chunk is malformed")
    object_id, offset, flat, chunk_id = value
    if not (0 <= object_id <= INT_MAX and 0 <= offset <= INT_MAX and len(chunk_id) == DIGEST_SIZE):
        raise ImageCorruptError("the meta of a chunk has a value out of range")
    if len(flat) == 2 and type(flat[0]) is type(flat[1]) is int:  # nearly all of a store's chunks
        start, length = flat
        if start >= 0 and length > 0 and start + length <= CHUNK_SIZE:
            return ChunkMeta(object_id, offset, ((offset + start, length),), chunk_id)
    if len(flat) % 2 or any(type(number) is not int for number in flat):
        raise ImageCorruptError("the runs of a chunk are malformed")
    pairs = zip(flat[::2], flat[1::2], strict=True)
    runs = tuple((offset + start, length) for start, length in pairs)
    problem = runs_problem(offset, runs)
    if problem is not None:
        raise ImageCorruptError(f"chunk {offset:#x} of object {object_id}: {problem}")
    return ChunkMeta(object_id, offset, runs, chunk_id)


class Chunk:
    """One chunk that was read, still as stored.

    Attributes:
        object_id, offset, runs, chunk_id: As in `ChunkMeta`.
        plain_size: Bytes once unpacked: the sum of the runs' lengths.
        stored_size: Bytes in the image.
    """

    __slots__ = ("_body", "_head", "chunk_id", "object_id", "offset", "runs")

    def __init__(self, head: Head, meta: ChunkMeta, body: bytes | bytearray | memoryview) -> None:
        self.object_id, self.offset, self.runs, self.chunk_id = meta
        self._head = head
        self._body = body

    @property
    def plain_size(self) -> int:
        return self._head.plain_size

    @property
    def stored_size(self) -> int:
        return self._head.stored_size

    @property
    def compressed(self) -> bool:
        """False when the plain bytes are stored as they are."""
        return bool(self._head.flags & FLAG_ZSTD)

    def unpack(self) -> bytes | bytearray | memoryview:
        """The plain bytes. Thread-safe; releases the GIL for most of the time.

        Raises:
            ImageCorruptError: The stored bytes do not match their digest, or do not decompress
                to exactly `plain_size` bytes.
        """
        check_body(self._head, self._body)
        if self.compressed:
            return decompress(self._body, self.plain_size)
        return self._body

    def unpack_into(self, buffer: bytearray | memoryview) -> memoryview:
        """As `unpack`, into a buffer of at least `plain_size` bytes where that avoids a copy.

        Returns:
            The plain bytes: a view of *buffer*, or of the stored bytes when these are plain.
        """
        check_body(self._head, self._body)
        if not self.compressed:
            return memoryview(self._body)
        plain = memoryview(buffer)[: self.plain_size]
        decompress_into(self._body, plain)
        return plain

    def check(self) -> None:
        """Compare the stored bytes with their digest, without unpacking them."""
        check_body(self._head, self._body)

    def check_id(self, plain: bytes | bytearray | memoryview) -> None:
        """Compare plain bytes with the chunk's name: ImageCorruptError when they differ."""
        if digest_of(plain) != self.chunk_id:
            raise ImageCorruptError(
                f"chunk {self.offset:#x} of object {self.object_id} is not what its name "
                f"{self.chunk_id.hex()[:16]}… says"
            )
