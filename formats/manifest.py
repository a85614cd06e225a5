"""The end of an image: the index of its chunks, and the digest over everything.

**Index.** The plain bodies of the index frames, put together, are a list of entries, one per chunk
in stream order: the chunk frame's file offset (8 bytes, little-endian) followed by its head and
meta exactly as they stand at that offset. So with the index in memory, any page is one read away:
the entry says where the body is and what its digest must be. An index frame holds whole entries.

**End frame.** The last frame; it has no body, and a meta of 88 bytes, so the last 152 bytes of a
file are the end frame. Little-endian:

offset  size  field
0       8     index_position: file offset of the first index frame (of the end frame when none)
8       4     index_frames
12      4     record_frames
16      8     records
24      8     chunks
32      8     plain_bytes: of all chunks
40      8     stored_bytes: of all chunks
48      8     file_size, the end frame included
56      32    root: BLAKE3 over the file header, then head and meta of every frame before this one
              in order, then bytes 0 to 55 of this meta

Each head carries the digest of its body, so the root stands for every byte of the image.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from blake3 import blake3

from formats.chunks import ChunkMeta, unpack_meta
from formats.errors import ImageCorruptError
from formats.frames import HEAD_SIZE, Frame, FrameType, Head, unpack_head
from formats.limits import MAX_META_SIZE

INDEX_BLOCK_SIZE = 1 << 20  # a writer cuts the index into blocks of about this size

_POSITION = struct.Struct("<Q")
_END = struct.Struct("<QIIQQQQQ")
END_META_SIZE = _END.size + 32
END_SIZE = HEAD_SIZE + END_META_SIZE


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """The counts and sizes of an image, and the digest that stands for all of it.

    Attributes:
        index_position: File offset of the index.
        index_frames, record_frames, records, chunks: Counts.
        plain_bytes: Bytes of all chunks before compression.
        stored_bytes: Bytes of all chunks in the file, without heads.
        file_size: Bytes of the whole image.
        root: BLAKE3 root digest, 32 bytes.
    """

    index_position: int
    index_frames: int
    record_frames: int
    records: int
    chunks: int
    plain_bytes: int
    stored_bytes: int
    file_size: int
    root: bytes

    @property
    def ratio(self) -> float:
        """How many times smaller the contents are in the image; 1.0 for an image without any."""
        return self.plain_bytes / self.stored_bytes if self.stored_bytes else 1.0


class RootDigest:
    """Collects what the root digest covers."""

    def __init__(self, header: bytes) -> None:
        self._hash = blake3(header)

    def add(self, raw: bytes) -> None:
        """Cover the head and meta of the next frame."""
        self._hash.update(raw)

    def so_far(self) -> bytes:
        """The digest of what was added until now."""
        return self._hash.digest()

    def finish(self, end: bytes) -> bytes:
        """The root, given the fixed part of the end frame's meta."""
        self._hash.update(end)
        return self._hash.digest()


def pack_end(counts: tuple[int, int, int, int, int, int, int, int], root: RootDigest) -> bytes:
    """The end frame's meta; *counts* are the fields of `ImageSummary` before the root."""
    fixed = _END.pack(*counts)
    return fixed + root.finish(fixed)


def unpack_end(meta: bytes) -> ImageSummary:
    """Read the end frame's meta; ImageCorruptError for a wrong size."""
    if len(meta) != END_META_SIZE:
        raise ImageCorruptError(f"the end frame has a meta of {len(meta)} bytes")
    position, indexes, record_frames, records, chunks, plain, stored, size = _END.unpack_from(meta)
    return ImageSummary(
        index_position=position,
        index_frames=indexes,
        record_frames=record_frames,
        records=records,
        chunks=chunks,
        plain_bytes=plain,
        stored_bytes=stored,
        file_size=size,
        root=meta[_END.size :],
    )


def check_root(meta: bytes, root: RootDigest) -> None:
    """Compare the root of an end frame's meta with the frames that were read."""
    if root.finish(meta[: _END.size]) != meta[_END.size :]:
        raise ImageCorruptError(
            "the frames do not add up to the image's root digest; copy the image again"
        )


class IndexEntry(NamedTuple):
    """One chunk, as the index knows it.

    Attributes:
        position: File offset of the chunk frame.
        head: Its head.
        meta: Its meta.
    """

    position: int
    head: Head
    meta: ChunkMeta

    @property
    def body_position(self) -> int:
        """File offset of the stored bytes."""
        return self.position + HEAD_SIZE + self.head.meta_size


def pack_entry(position: int, raw: bytes) -> bytes:
    """The index entry of the chunk frame at *position* with head and meta *raw*."""
    return _POSITION.pack(position) + raw


def entry_of(frame: Frame) -> bytes:
    """The index entry that a chunk frame must have."""
    return pack_entry(frame.position, frame.raw)


def for_each_entry(plain: bytes | bytearray) -> Iterator[IndexEntry]:
    """The entries of one index block; ImageCorruptError when it is malformed."""
    for position, raw in for_each_raw_entry(plain):
        head, meta = unpack_head(raw)
        if head.type != FrameType.CHUNK:
            raise ImageCorruptError(f"the index names frame {head.sequence}, which is no chunk")
        yield IndexEntry(position, head, unpack_meta(meta, head.plain_size))


def for_each_raw_entry(plain: bytes | bytearray) -> Iterator[tuple[int, bytes]]:
    """As for_each_entry: file offsets, and heads with metas as they stand there, unchecked."""
    at = 0
    while at < len(plain):
        head_at = at + _POSITION.size
        if head_at + HEAD_SIZE > len(plain):
            raise ImageCorruptError("the index ends inside an entry")
        (position,) = _POSITION.unpack_from(plain, at)
        (meta_size,) = struct.unpack_from("<I", plain, head_at + 8)
        end = head_at + HEAD_SIZE + meta_size
        if meta_size > MAX_META_SIZE or end > len(plain):
            raise ImageCorruptError("the index ends inside an entry")
        yield position, bytes(plain[head_at:end])
        at = end
