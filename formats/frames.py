"""Frames: everything after the file header.

A frame is a head of 64 bytes, a meta (small, uncompressed) and a body (perhaps compressed). All
numbers are little-endian.

offset  size  field
0       1     type: 1 records, 2 chunk, 3 index, 4 end; a reader skips unknown types from 128 on
              and refuses the image for any other unknown type
1       1     flags: bit 0 set when the body is one zstd frame; others zero
2       2     reserved, zero
4       4     sequence: 0 for the first frame of the file, then counting up by one
8       4     meta_size in bytes
12      4     stored_size: bytes of the body in the file
16      4     plain_size: bytes of the body once decompressed; never below stored_size
20      4     reserved, zero
24      32    digest: BLAKE3 of the body as stored
56      8     check: the first 8 bytes of BLAKE3 over bytes 0 to 55 and the meta

The digest is over the stored bytes, so that a body is judged before a decompressor sees it. It is
the full 32 bytes: the heads together make the root digest (`formats.manifest`), the one that a
signature will cover, and a shorter one would save a thirtieth of a per mille. The check guards the
head against accidents from its first use, long before the root digest is known; the sequence does
the same for frames that were dropped, repeated or swapped.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple, Protocol

from blake3 import blake3

from formats.compression import decompress
from formats.errors import ImageCorruptError, ImageError, ImageVersionError
from formats.limits import CHUNK_SIZE, MAX_BLOCK_SIZE, MAX_META_SIZE

HEAD_SIZE = 64
FLAG_ZSTD = 1
FIRST_SKIPPABLE = 128

_FIXED = struct.Struct("<BBHIIIII32s")
_CHECK_SIZE = 8
_Bytes = bytes | bytearray | memoryview


class FrameType(enum.IntEnum):
    """What a frame holds. They stand in a file in this order."""

    RECORDS = 1
    CHUNK = 2
    INDEX = 3
    END = 4


# The largest body of each type, once decompressed; skippable frames share the blocks' bound.
_MAX_PLAIN = {
    FrameType.RECORDS: MAX_BLOCK_SIZE,
    FrameType.CHUNK: CHUNK_SIZE,
    FrameType.INDEX: MAX_BLOCK_SIZE,
    FrameType.END: 0,
}


class Head(NamedTuple):
    """A frame's head, already checked.

    Attributes:
        type: One of `FrameType`, or `FIRST_SKIPPABLE` and above.
        flags: `FLAG_ZSTD` or 0.
        sequence: Number of the frame in the file.
        meta_size, stored_size, plain_size: Bytes.
        digest: BLAKE3 of the stored body.
    """

    type: int
    flags: int
    sequence: int
    meta_size: int
    stored_size: int
    plain_size: int
    digest: bytes


class Frame(NamedTuple):
    """A frame whose body has not been read yet.

    Attributes:
        position: File offset of its head.
        head: The head.
        meta: The meta.
        raw: Head and meta as they stand in the file: what the root digest covers.
    """

    position: int
    head: Head
    meta: bytes
    raw: bytes


def digest_of(data: _Bytes) -> bytes:
    """BLAKE3 of *data*, 32 bytes. Releases the GIL for anything above two KiB."""
    return blake3(data).digest()


def pack_head(head: Head, meta: bytes) -> bytes:
    """Head and meta as they stand in the file."""
    fixed = _FIXED.pack(
        head.type,
        head.flags,
        0,
        head.sequence,
        head.meta_size,
        head.stored_size,
        head.plain_size,
        0,
        head.digest,
    )
    return fixed + blake3(fixed + meta).digest(_CHECK_SIZE) + meta


def unpack_head(raw: bytes) -> tuple[Head, bytes]:
    """Read and judge head and meta; *raw* holds exactly both.

    Raises:
        ImageCorruptError: Wrong check, sizes beyond the bounds, reserved bytes in use.
        ImageVersionError: A type or flag that this version does not know.
    """
    fixed, check, meta = raw[: _FIXED.size], raw[_FIXED.size : HEAD_SIZE], raw[HEAD_SIZE:]
    if check != blake3(fixed + meta).digest(_CHECK_SIZE):
        raise ImageCorruptError("the head of a frame is damaged")
    kind, flags, zero, sequence, meta_size, stored, plain, zero_too, digest = _FIXED.unpack(fixed)
    head = Head(kind, flags, sequence, meta_size, stored, plain, digest)
    if zero or zero_too:
        raise ImageCorruptError(f"frame {sequence}: a reserved byte is not zero")
    if meta_size != len(meta):
        raise ImageCorruptError(f"frame {sequence}: meta of {len(meta)} bytes, not {meta_size}")
    _judge(head)
    return head, meta


def _judge(head: Head) -> None:
    name = f"frame {head.sequence}"
    if head.flags & ~FLAG_ZSTD:
        raise ImageVersionError(
            f"{name} has unknown flags {head.flags:#x}; upgrade wherry on this host"
        )
    if head.type < FIRST_SKIPPABLE and head.type not in _MAX_PLAIN:
        raise ImageVersionError(f"{name} has unknown type {head.type}; upgrade wherry on this host")
    limit = _MAX_PLAIN[FrameType(head.type)] if head.type in _MAX_PLAIN else MAX_BLOCK_SIZE
    if head.plain_size > limit:
        raise ImageCorruptError(f"{name}: {head.plain_size} bytes, at most {limit} allowed")
    if head.meta_size and head.type in (FrameType.RECORDS, FrameType.INDEX):
        raise ImageCorruptError(f"{name}: a meta of {head.meta_size} bytes where none belongs")
    compressed = bool(head.flags & FLAG_ZSTD)
    if head.stored_size > head.plain_size or (
        not compressed and head.stored_size != head.plain_size
    ):
        raise ImageCorruptError(
            f"{name}: {head.stored_size} bytes stored for {head.plain_size} plain bytes"
        )


def check_body(head: Head, body: _Bytes) -> None:
    """Compare a stored body with its head's digest; ImageCorruptError names both."""
    found = digest_of(body)
    if found != head.digest:
        raise ImageCorruptError(
            f"the body of frame {head.sequence} has digest {found.hex()[:16]}…, its head says "
            f"{head.digest.hex()[:16]}…; copy the image again"
        )


class Source(Protocol):
    """Where an image comes from: any blocking raw or buffered binary file has this method."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill *buffer* or a part of it; the count of bytes, 0 at the end."""


class FrameReader:
    """Reads frames in order from a pipe or a file, and never a byte further than asked.

    Args:
        source: Where the bytes come from; short reads are fine.
        position: File offset of the next byte.
        sequence: Number that the next frame must have.
    """

    def __init__(self, source: Source, position: int = 0, *, sequence: int = 0) -> None:
        self._readinto = source.readinto
        self.position = position
        self.next_sequence = sequence

    def next_frame(self) -> Frame:
        """The head and meta of the next frame. The body must be read before the next call."""
        position = self.position
        fixed = bytearray(HEAD_SIZE)
        self.read_into(memoryview(fixed))
        (meta_size,) = struct.unpack_from("<I", fixed, 8)
        # The one size that is used before the check can be made; so it is bounded here.
        if meta_size > MAX_META_SIZE:
            raise ImageCorruptError(f"frame {self.next_sequence}: meta of {meta_size} bytes")
        meta_bytes = bytearray(meta_size)
        self.read_into(memoryview(meta_bytes))
        raw = bytes(fixed + meta_bytes)
        head, meta = unpack_head(raw)
        if head.sequence != self.next_sequence:
            raise ImageCorruptError(
                f"frame {head.sequence} stands where frame {self.next_sequence} belongs; "
                "copy the image again"
            )
        self.next_sequence += 1
        return Frame(position, head, meta, raw)

    def read_body(self, frame: Frame) -> bytearray:
        """The stored body, unchecked."""
        body = bytearray(frame.head.stored_size)
        self.read_into(memoryview(body))
        return body

    def read_plain(self, frame: Frame) -> bytes | bytearray:
        """The body, checked and decompressed."""
        body = self.read_body(frame)
        check_body(frame.head, body)
        if frame.head.flags & FLAG_ZSTD:
            return decompress(body, frame.head.plain_size)
        return body

    def read_into(self, view: memoryview) -> None:
        """Fill *view*.

        Raises:
            ImageCorruptError: The source ends before (reason ``image-truncated``).
            ImageError: The source cannot be read (reason ``image-unreadable``).
        """
        if self.read_up_to(view) < len(view):
            raise ImageCorruptError(
                f"the image ends at byte {self.position}, in the middle; copy it again",
                reason="image-truncated",
            )

    def read_up_to(self, view: memoryview) -> int:
        """Fill *view* as far as the source goes; the count of bytes. Raises like `read_into`."""
        start = self.position
        while view:
            got = self._read_some(view)
            if not got:
                break
            view = view[got:]
        return self.position - start

    def at_end(self) -> bool:
        """True when the source has no further byte. Consumes one byte when it has."""
        return not self._read_some(memoryview(bytearray(1)))

    def _read_some(self, view: memoryview) -> int:
        try:
            got = self._readinto(view)
        except OSError as exc:
            raise ImageError(
                f"byte {self.position} cannot be read: {exc.strerror or exc}",
                reason="image-unreadable",
            ) from exc
        if got is None:
            raise ValueError("the source of an image must be a blocking one")
        self.position += got
        return got
