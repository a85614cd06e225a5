"""Frame heads and bodies."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest

from formats.compression import Compressor, decompress, decompress_into
from formats.errors import ImageCorruptError, ImageError, ImageVersionError
from formats.frames import (
    FLAG_ZSTD,
    HEAD_SIZE,
    FrameReader,
    FrameType,
    Head,
    check_body,
    digest_of,
    pack_head,
    unpack_head,
)
from formats.limits import CHUNK_SIZE, MAX_BLOCK_SIZE, MAX_META_SIZE

GOOD = Head(FrameType.CHUNK, 0, 0, 4, 6, 6, digest_of(b"abcdef"))


def test_round_trip() -> None:
    raw = pack_head(GOOD, b"meta")
    assert len(raw) == HEAD_SIZE + 4
    assert unpack_head(raw) == (GOOD, b"meta")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"type": 0}, ImageVersionError, "unknown type 0"),
        ({"type": 127}, ImageVersionError, "unknown type 127"),
        ({"flags": 2}, ImageVersionError, "unknown flags 0x2"),
        ({"stored_size": 7}, ImageCorruptError, "7 bytes stored for 6"),
        ({"stored_size": 5}, ImageCorruptError, "5 bytes stored for 6"),
        ({"meta_size": 3}, ImageCorruptError, "meta of 4 bytes, not 3"),
        (
            {"type": FrameType.CHUNK, "plain_size": CHUNK_SIZE + 1, "flags": 1},
            ImageCorruptError,
            f"at most {CHUNK_SIZE}",
        ),
        ({"plain_size": MAX_BLOCK_SIZE + 1, "flags": 1}, ImageCorruptError, "at most"),
        ({"type": 200, "plain_size": 0xFFFF_FFFF}, ImageCorruptError, "at most"),
        ({"type": FrameType.RECORDS}, ImageCorruptError, "meta of 4 bytes where none belongs"),
        ({"type": FrameType.INDEX}, ImageCorruptError, "meta of 4 bytes where none belongs"),
        ({"type": FrameType.END}, ImageCorruptError, "at most 0 allowed"),
    ],
)
def test_heads_that_are_refused(
    change: dict[str, Any], error: type[ImageError], words: str
) -> None:
    with pytest.raises(error, match=words):
        unpack_head(pack_head(GOOD._replace(**change), b"meta"))


def test_a_reserved_byte_is_refused() -> None:
    raw = bytearray(pack_head(GOOD, b"meta"))
    for at in (2, 3, 20, 23):
        changed = raw.copy()
        changed[at] = 1
        fixed = bytes(changed[:56])
        signed = fixed + digest_of(fixed + b"meta")[:8] + b"meta"
        with pytest.raises(ImageCorruptError, match="reserved byte"):
            unpack_head(signed)


def test_every_bit_of_head_and_meta_counts() -> None:
    raw = pack_head(GOOD, b"meta")
    for at, bit in itertools.product(range(len(raw)), range(8)):
        damaged = bytearray(raw)
        damaged[at] ^= 1 << bit
        with pytest.raises(ImageCorruptError):
            unpack_head(bytes(damaged))


def test_a_body_must_match_its_digest() -> None:
    check_body(GOOD, b"abcdef")
    with pytest.raises(ImageCorruptError, match="frame 0 has digest"):
        check_body(GOOD, b"abcdeF")


def test_frames_out_of_sequence() -> None:
    head = pack_head(GOOD._replace(sequence=1), b"meta")
    with pytest.raises(ImageCorruptError, match="frame 1 stands where frame 0 belongs"):
        FrameReader(io.BytesIO(head)).next_frame()


def test_the_meta_is_bounded_before_it_is_read() -> None:
    head = bytearray(pack_head(GOOD, b""))
    head[8:12] = (MAX_META_SIZE + 1).to_bytes(4, "little")
    source = io.BytesIO(bytes(head) + bytes(MAX_META_SIZE + 1))
    with pytest.raises(ImageCorruptError, match="meta of"):
        FrameReader(source).next_frame()
    assert source.tell() == HEAD_SIZE


class BrokenSource(io.RawIOBase):
    """A disk that cannot be read."""

    def readinto(self, buffer: object) -> int:
        raise OSError(5, "Input/output error")


def test_a_source_that_fails_is_named_by_position() -> None:
    with pytest.raises(ImageError, match="byte 0 cannot be read: Input/output error") as caught:
        FrameReader(BrokenSource()).next_frame()
    assert caught.value.reason == "image-unreadable"


# Compression


def test_compression_is_used_only_where_it_pays() -> None:
    import random

    assert Compressor().compress(b"") is None
    assert Compressor().compress(b"a") is None
    assert Compressor().compress(random.Random(1).randbytes(CHUNK_SIZE)) is None
    stored = Compressor().compress(bytes(CHUNK_SIZE))
    assert stored is not None
    assert len(stored) < 1000
    assert decompress(stored, CHUNK_SIZE) == bytes(CHUNK_SIZE)


@pytest.mark.parametrize("function", ["decompress", "decompress_into"])
def test_decompression_is_bounded_and_exact(function: str) -> None:
    import zstandard

    def unpack(stored: bytes, size: int) -> bytes:
        if function == "decompress":
            return decompress(stored, size)
        plain = memoryview(bytearray(size))
        decompress_into(stored, plain)
        return bytes(plain)

    plain = b"page" * 1024
    good = zstandard.ZstdCompressor().compress(plain)
    assert unpack(good, len(plain)) == plain
    no_size = zstandard.ZstdCompressor(write_content_size=False).compress(plain)
    for stored, size in [
        (good, len(plain) - 1),
        (good, len(plain) + 1),
        (no_size, len(plain)),
        (good + b"x", len(plain)),
        (good + good, len(plain)),
        (zstandard.ZstdCompressor(write_checksum=True).compress(plain), len(plain)),
        (good[:-1], len(plain)),
        (good[:5], len(plain)),
        (b"", len(plain)),
        (b"not zstd at all", len(plain)),
        (b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip" + good, len(plain)),
        (_forge_size(good, 1 << 40), len(plain)),
        (_forge_size(good, len(plain) - 4), len(plain) - 4),
        (_forge_size(good, len(plain) + 4), len(plain) + 4),
    ]:
        with pytest.raises(ImageCorruptError):
            unpack(stored, size)
    assert FLAG_ZSTD == 1


def _forge_size(frame: bytes, size: int) -> bytes:
    """A zstd frame whose header promises another content size (RFC 8878, section 3.1.1)."""
    import zstandard

    header_size = zstandard.frame_header_size(frame)
    # Single segment, no checksum, no dictionary, content size in 8 bytes.
    return frame[:4] + b"\xe0" + size.to_bytes(8, "little") + frame[header_size:]
