"""What is in the files of a tree, on its way: pieces, and what each file is when it has ended.

A sequence of blocks (`migrate.rootfs.blocks`) of parts, each ``type u8, number u32, a u64, b u32``,
little-endian, and perhaps bytes:

====  =================================================================
type  meaning
====  =================================================================
1     a piece of file *number* at offset *a*: *b* bytes follow
2     file *number* is zeros at offset *a*, *b* bytes
3     file *number* has *a* bytes; its digest follows (*b* = 32 bytes)
====  =================================================================

The parts of a file stand together. What ends a file says what was sent and not what was offered:
the program may be writing to it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from formats.frames import Source
from migrate.errors import ProtocolError
from migrate.rootfs.blocks import BlockWriter, read_blocks
from migrate.rootfs.content import PIECE_SIZE
from migrate.rootfs.entries import DIGEST_SIZE

PART = struct.Struct("<BIQI")
DATA, ZEROS, END = 1, 2, 3


class Part(NamedTuple):
    """One part; *data* is empty for zeros, and the digest at the end."""

    kind: int
    number: int
    offset: int
    size: int
    data: bytes | bytearray | memoryview


def put_data(blocks: BlockWriter, number: int, offset: int, data: bytes) -> None:
    """Send a piece."""
    blocks.put(PART.pack(DATA, number, offset, len(data)), data)


def put_zeros(blocks: BlockWriter, number: int, offset: int, size: int) -> None:
    """Send that a piece is zeros now."""
    blocks.put(PART.pack(ZEROS, number, offset, size))


def put_end(blocks: BlockWriter, number: int, size: int, digest: bytes) -> None:
    """End a file."""
    blocks.put(PART.pack(END, number, size, len(digest)), digest)


def read_parts(source: Source) -> Iterator[Part]:
    """The parts of a sequence, each judged by itself.

    Raises:
        ProtocolError: One is malformed.
    """
    for block in read_blocks(source):
        view, at = memoryview(block), 0
        while at < len(view):
            if at + PART.size > len(view):
                raise ProtocolError("a part of a file is cut off")
            kind, number, offset, size = PART.unpack_from(view, at)
            at += PART.size
            limit = {DATA: PIECE_SIZE, ZEROS: PIECE_SIZE, END: DIGEST_SIZE}.get(kind, -1)
            stored = 0 if kind == ZEROS else size
            if not 0 < size <= limit or at + stored > len(view) or offset >= 1 << 62:
                raise ProtocolError("a part of a file is malformed")
            if kind != END and offset % PIECE_SIZE:
                raise ProtocolError("a part of a file is out of place")
            yield Part(kind, number, offset, size, view[at : at + stored])
            at += stored
