"""zstandard, with its options chosen once, and decompression that cannot be made to swell.

Writing: the content size is always in the zstd frame (a reader compares it before it allocates);
zstd's own checksum is off, because BLAKE3 covers the stored bytes already. A body that does not
shrink by at least 1/32 is stored as it is: reading it back then costs nothing.

Reading: the size in the zstd frame must equal the size that the frame head promised, which is
bounded already; a body that is not exactly one zstd frame of that size is refused.
"""

from __future__ import annotations

import threading

import zstandard

from formats.errors import ImageCorruptError
from formats.limits import MAX_BLOCK_SIZE

_MIN_GAIN = 5  # a body must lose 2**-5 of its size to be stored compressed

_BLOCK_HEADER_SIZE = 3
_RLE_BLOCK = 1

_local = threading.local()


class Compressor:
    """A zstd context. One per thread: a context works on one body at a time.

    Attributes:
        level: zstd level.
    """

    def __init__(self, level: int = 1) -> None:
        self.level = level
        self._context = zstandard.ZstdCompressor(
            level=level, write_checksum=False, write_content_size=True, write_dict_id=False
        )

    def compress(self, plain: bytes | bytearray | memoryview) -> bytes | None:
        """The zstd frame of *plain*, or None when it is better stored as it is.

        Releases the GIL while it works.
        """
        stored = self._context.compress(plain)
        worthwhile = len(stored) <= len(plain) - (len(plain) >> _MIN_GAIN) - 1
        return stored if worthwhile else None


def decompress(stored: bytes | bytearray | memoryview, plain_size: int) -> bytes:
    """Decompress a body of exactly *plain_size* bytes, which the caller has bounded.

    Safe to call from several threads; each has its own context. Releases the GIL.

    Raises:
        ImageCorruptError: The body is not one zstd frame of that size.
    """
    _require_one_frame(stored, plain_size)
    try:
        plain: bytes = _context().decompress(
            stored, max_output_size=plain_size, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as exc:
        raise ImageCorruptError(f"a body cannot be decompressed: {exc}") from None
    if len(plain) != plain_size:
        raise _wrong_size(len(plain), plain_size)
    return plain


def decompress_into(stored: bytes | bytearray | memoryview, plain: memoryview) -> None:
    """Decompress a body into *plain*, which it must fill exactly. As `decompress` otherwise."""
    _require_one_frame(stored, len(plain))
    try:
        # With a buffer as large as the content, zstd decodes straight into it: no window, no copy.
        with _context().stream_reader(stored, read_across_frames=False) as stream:
            got = stream.readinto(plain)
    except zstandard.ZstdError as exc:
        raise ImageCorruptError(f"a body cannot be decompressed: {exc}") from None
    if got != len(plain):
        raise _wrong_size(got, len(plain))


def _context() -> zstandard.ZstdDecompressor:
    context: zstandard.ZstdDecompressor | None = getattr(_local, "context", None)
    if context is None:
        context = _local.context = zstandard.ZstdDecompressor(max_window_size=MAX_BLOCK_SIZE)
    return context


def _require_one_frame(stored: bytes | bytearray | memoryview, plain_size: int) -> None:
    """Walk the zstd frame (RFC 8878, section 3.1.1): its promises and its end must fit exactly."""
    try:
        parameters = zstandard.get_frame_parameters(stored)
        at = zstandard.frame_header_size(stored)
    except zstandard.ZstdError as exc:
        raise ImageCorruptError(f"a body cannot be decompressed: {exc}") from None
    if parameters.content_size != plain_size:
        raise _wrong_size(parameters.content_size, plain_size)
    if parameters.dict_id or parameters.has_checksum:
        raise ImageCorruptError("a body was compressed with a dictionary or a checksum")
    last = 0
    while not last:
        block = int.from_bytes(stored[at : at + _BLOCK_HEADER_SIZE], "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        at += _BLOCK_HEADER_SIZE + (1 if kind == _RLE_BLOCK else size)
        if at > len(stored):
            break
    if at != len(stored):
        raise ImageCorruptError("a body is not exactly one zstd frame")


def _wrong_size(found: int, promised: int) -> ImageCorruptError:
    return ImageCorruptError(f"a body decompresses to {found} bytes, its head says {promised}")
