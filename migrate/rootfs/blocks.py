"""Compressed blocks in the data frames of a conversation: lists of files, and what is in them.

Each block is ``plain size, stored size`` (u32 each, little-endian) and the stored bytes: one zstd
frame, or the plain bytes when both sizes are equal. A block of zero bytes ends the sequence.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from types import TracebackType

from formats.compression import Compressor, decompress
from formats.errors import ImageCorruptError
from formats.frames import Source
from formats.writer import Sink
from migrate.errors import ProtocolError

BLOCK_SIZE = 1 << 20  # about; a block is closed by what makes it larger
MAX_BLOCK_SIZE = 4 << 20
_HEAD = struct.Struct("<II")


class BlockWriter:
    """Collects bytes into blocks; a context manager that ends the sequence.

    Args:
        sink: Where the blocks go.
        level: zstd level.
    """

    def __init__(self, sink: Sink, *, level: int = 1) -> None:
        self._write = sink.write
        self._compressor = Compressor(level)
        self._pending = bytearray()

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.flush()
            self._write(_HEAD.pack(0, 0))

    def put(self, *parts: bytes | memoryview) -> None:
        """Add bytes that stay together in one block: less than `BLOCK_SIZE` of them."""
        for part in parts:
            self._pending += part
        if len(self._pending) >= BLOCK_SIZE:
            self.flush()

    def flush(self) -> None:
        """Close the block."""
        if not self._pending:
            return
        stored: bytes | bytearray = self._compressor.compress(self._pending) or self._pending
        self._write(_HEAD.pack(len(self._pending), len(stored)))
        self._write(stored)
        self._pending = bytearray()


def read_blocks(source: Source) -> Iterator[bytes | bytearray]:
    """The plain bytes of each block, to the end of the sequence.

    Raises:
        ProtocolError: It is malformed, or ends too early.
    """
    while True:
        plain_size, stored_size = _HEAD.unpack(_exactly(source, _HEAD.size))
        if not plain_size:
            return
        if not 0 < stored_size <= plain_size <= MAX_BLOCK_SIZE:
            raise ProtocolError(f"a block of {plain_size} bytes stored as {stored_size}")
        stored = _exactly(source, stored_size)
        if stored_size == plain_size:
            yield stored
            continue
        try:
            yield decompress(stored, plain_size)
        except ImageCorruptError as exc:
            raise ProtocolError(f"a block of files: {exc}") from exc


def _exactly(source: Source, size: int) -> bytearray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        count = source.readinto(view)
        if not count:
            raise ProtocolError("the data ends in the middle of a block")
        view = view[count:]
    return buffer
