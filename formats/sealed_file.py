"""Encrypted state files: an image in sealed blocks, which can be opened in any order.

offset  size  field
0       64    a header (`formats.header`) with the incompatible feature ``encryption`` alone
64      4     bytes of the key table, at most 65 536, little-endian
68            the key table: how to come by the key; none of this module's business
…       32    key check: tells a wrong key, and that somebody has changed what is before it
…             the blocks

An ordinary image, its own header and all, is cut into blocks of `BLOCK_SIZE` bytes. Each is sealed
by itself: ciphertext, then a tag of 16 bytes. The nonce is the number of the block (8 bytes,
little-endian) and 4 bytes that are 1 for the last block and 0 for others, so none can be left out,
moved, or cut off unnoticed; the key belongs to this file alone. Only the last block is shorter.

The cipher itself comes from outside (`Cipher`): this package knows no cryptography.
"""

from __future__ import annotations

import io
import os
import struct
import threading
from collections.abc import Callable
from io import FileIO
from typing import Any, Protocol

from formats.errors import ImageCorruptError, ImageError
from formats.header import ENCRYPTION, HEADER_SIZE, Header, pack_header, unpack_header
from formats.writer import Sink

BLOCK_SIZE = 64 << 10
TAG_SIZE = 16
CHECK_SIZE = 32
MAX_TABLE_SIZE = 65_536
_SEALED_SIZE = BLOCK_SIZE + TAG_SIZE
_TABLE_SIZE = struct.Struct("<I")
_NONCE = struct.Struct("<QI")
_BATCH = 16  # blocks that one call reads or writes

Buffer = bytes | bytearray | memoryview


class Cipher(Protocol):
    """Authenticated encryption with the key of one file. Thread-safe."""

    def check(self, before: bytes, /) -> bytes:
        """The key check, 32 bytes, over what stands before it."""

    def seal(self, nonce: bytes, plain: Buffer, /) -> bytes:
        """Ciphertext and tag."""

    def open(self, nonce: bytes, sealed: Buffer, /) -> bytes:
        """The plain bytes; ImageCorruptError when they are not what was sealed."""


Unlock = Callable[[bytes], Cipher]
"""Finds a file's cipher by its key table; raises when there is no key for it."""


class SealedSink:
    """A `Sink` that seals what it is given into another one.

    Args:
        sink: Gets the encrypted file.
        table: The key table.
        cipher: With a key that is used for nothing else.
    """

    def __init__(self, sink: Sink, table: bytes, cipher: Cipher) -> None:
        self._sink = sink
        self._cipher = cipher
        self._open = bytearray()
        self._blocks = 0
        before = pack_header(Header(incompatible=ENCRYPTION)) + _TABLE_SIZE.pack(len(table)) + table
        self._put(before + cipher.check(before))

    def write(self, data: Buffer, /) -> int:
        """Take all of *data*."""
        self._open += data
        # One block is kept back: whether it is the last one shows later.
        if len(self._open) > _BATCH * BLOCK_SIZE:
            count = (len(self._open) - 1) // BLOCK_SIZE
            view = memoryview(bytes(self._open[: count * BLOCK_SIZE]))
            del self._open[: count * BLOCK_SIZE]
            self._seal(view, last=False)
        return len(data)

    def finish(self) -> None:
        """Write what is left: the image is complete."""
        view = memoryview(bytes(self._open))
        self._open.clear()
        whole = max(0, len(view) - 1) // BLOCK_SIZE * BLOCK_SIZE
        self._seal(view[:whole], last=False)
        self._put(self._cipher.seal(_NONCE.pack(self._blocks, 1), view[whole:]))

    def _seal(self, view: memoryview, *, last: bool) -> None:
        sealed = []
        for at in range(0, len(view), BLOCK_SIZE):
            nonce = _NONCE.pack(self._blocks, last)
            sealed.append(self._cipher.seal(nonce, view[at : at + BLOCK_SIZE]))
            self._blocks += 1
        if sealed:
            self._put(b"".join(sealed))

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = self._sink.write(rest)
            rest = rest[len(rest) if written is None else written :]


class SealedFile(FileIO):
    """An encrypted state file, read as if it were the image in it.

    Positions and sizes are those of the image. `pread` may be called in several threads.

    Args:
        path: The file.
        unlock: Finds its key.

    Raises:
        ImageError: It is damaged, or was changed by somebody without the key.
    """

    def __init__(self, path: str | os.PathLike[str], unlock: Unlock) -> None:
        super().__init__(os.fspath(path), "rb")
        self._at = 0
        self._block: tuple[int, bytes] = (-1, b"")
        self._lock = threading.Lock()
        try:
            before, table = self._read_table()
            self._cipher = unlock(table)
            check = self._read_raw(CHECK_SIZE, len(before))
            if check != self._cipher.check(before):
                raise ImageCorruptError("its first bytes are not what the holder of the key wrote")
            self._base = len(before) + CHECK_SIZE
            sealed = os.fstat(self.fileno()).st_size - self._base
            self._count = -(-sealed // _SEALED_SIZE)
            self.size = sealed - self._count * TAG_SIZE
            if not self._count or sealed - (self._count - 1) * _SEALED_SIZE < TAG_SIZE:
                raise ImageCorruptError(
                    "it ends in the middle; copy the image again", reason="image-truncated"
                )
        except BaseException:
            self.close()
            raise

    def _read_table(self) -> tuple[bytes, bytes]:
        raw = self._read_raw(HEADER_SIZE + _TABLE_SIZE.size, 0)
        header = unpack_header(raw[:HEADER_SIZE], understood=ENCRYPTION)
        (size,) = _TABLE_SIZE.unpack_from(raw, HEADER_SIZE)
        if header.incompatible != ENCRYPTION or header.compatible or size > MAX_TABLE_SIZE:
            raise ImageCorruptError("an encrypted image with a header that none has")
        table = self._read_raw(size, len(raw))
        return raw + table, table

    def _read_raw(self, size: int, position: int) -> bytes:
        found = bytearray(size)
        view = memoryview(found)
        while view:
            try:
                count = os.preadv(self.fileno(), [view], position)
            except OSError as exc:
                raise ImageError(
                    f"byte {position} cannot be read: {exc.strerror}", reason="image-unreadable"
                ) from exc
            if not count:
                raise ImageCorruptError(
                    f"the image ends at byte {position}, in the middle; copy it again",
                    reason="image-truncated",
                )
            position += count
            view = view[count:]
        return bytes(found)

    # As a file

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fill *buffer* as far as the image goes."""
        count = self.pread(memoryview(buffer).cast("B"), self._at)
        self._at += count
        return count

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self.size - self._at)
        found = bytearray(left if size is None or size < 0 else min(size, left))
        del found[self.readinto(found) :]
        return bytes(found)

    def readall(self) -> bytes:
        return self.read()

    def pread(self, view: memoryview, position: int) -> int:
        """Fill *view* with the image's bytes from *position* on, as far as it goes; the count.

        Raises:
            ImageCorruptError: A block is not what was sealed there.
        """
        view = view[: max(0, self.size - position)]
        done = 0
        while done < len(view):
            number, offset = divmod(position + done, BLOCK_SIZE)
            with self._lock:
                cached, plain = self._block
            if cached == number:
                part = plain[offset : offset + len(view) - done]
                view[done : done + len(part)] = part
                done += len(part)
                continue
            done += self._open_blocks(view[done:], number, offset)
        return done

    def _open_blocks(self, view: memoryview, number: int, offset: int) -> int:
        """Open blocks from *number* on into *view*, the first one from *offset* on."""
        count = min(_BATCH, -(-(offset + len(view)) // BLOCK_SIZE), self._count - number)
        start = self._base + number * _SEALED_SIZE
        end = min(start + count * _SEALED_SIZE, self._base + self.size + self._count * TAG_SIZE)
        raw = memoryview(self._read_raw(end - start, start))
        done = 0
        for index in range(count):
            last = number + index == self._count - 1
            sealed = raw[index * _SEALED_SIZE : (index + 1) * _SEALED_SIZE]
            plain = self._cipher.open(_NONCE.pack(number + index, last), sealed)
            part = memoryview(plain)[offset : offset + len(view) - done]
            view[done : done + len(part)] = part
            done += len(part)
            offset = 0
        with self._lock:
            self._block = (number + count - 1, plain)
        return done


def is_sealed(source: FileIO) -> bool:
    """Whether a file, at its start, where it is left, is an encrypted image."""
    try:
        raw = os.pread(source.fileno(), HEADER_SIZE, 0)
        return unpack_header(raw, understood=ENCRYPTION).incompatible == ENCRYPTION
    except (ImageError, OSError):
        return False  # whoever reads it says what is wrong
