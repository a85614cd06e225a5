"""What is in a regular file: pieces of 64 KiB without those of zeros, and a digest of all of them.

The digest is the BLAKE3 of ``offset (u64, little-endian), BLAKE3 of the piece`` of every piece
that is not all zeros, in order. So it costs nothing for holes, it does not depend on whether zeros
are a hole or written out, and a few new pieces do not need the others to be read again.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Mapping

from formats.frames import digest_of

PIECE_SIZE = 64 << 10
READ_SIZE = 1 << 20
_ZEROS = bytes(PIECE_SIZE)
_OFFSET = struct.Struct("<Q")

Pieces = dict[int, bytes]
"""Digests of a file's pieces by offset, ascending; without those of zeros."""


def for_each_piece(fd: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The pieces of a file's first *size* bytes that are not all zeros, as (offset, bytes).

    Source: man 2 lseek, SEEK_DATA and SEEK_HOLE.
    """
    position = 0
    while position < size:
        start, end = _next_data(fd, position, size)
        # Whole pieces: a hole may begin in the middle of one.
        position = start - start % PIECE_SIZE
        end = min(size, end + -end % PIECE_SIZE)
        while position < end:
            data = os.pread(fd, min(READ_SIZE, end - position), position)
            if not data:
                return  # it was cut while we read it; whoever looks again will see
            for at in range(0, len(data), PIECE_SIZE):
                piece = data[at : at + PIECE_SIZE]
                if piece != _ZEROS[: len(piece)]:
                    yield position + at, piece
            whole = len(data) - len(data) % PIECE_SIZE
            position += whole if whole and position + len(data) < end else len(data)


def _next_data(fd: int, position: int, size: int) -> tuple[int, int]:
    """The next part that has data; (size, size) when there is none."""
    try:
        start = os.lseek(fd, position, os.SEEK_DATA)
        return min(start, size), min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return size, size
        if exc.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return position, size
        raise


def pieces_of(fd: int, size: int) -> Pieces:
    """The digests of a file's pieces."""
    return {offset: piece_digest(piece) for offset, piece in for_each_piece(fd, size)}


def piece_digest(piece: bytes | bytearray | memoryview) -> bytes:
    """The name of a piece."""
    return digest_of(piece)


def digest_of_pieces(pieces: Mapping[int, bytes]) -> bytes:
    """The digest of a file with these pieces."""
    return digest_of(b"".join(_OFFSET.pack(at) + pieces[at] for at in sorted(pieces)))
