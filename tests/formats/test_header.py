"""The file header: what it says and what it refuses."""

from __future__ import annotations

import pytest
from blake3 import blake3

from formats.errors import ImageCorruptError, ImageError, ImageVersionError
from formats.header import (
    HEADER_SIZE,
    MAGIC,
    MAJOR,
    MINOR,
    RESERVED_INCOMPATIBLE,
    Header,
    pack_header,
    unpack_header,
)


def checked(fixed: bytes) -> bytes:
    """A header with the right check over any 56 bytes."""
    return fixed + blake3(fixed).digest(8)


def test_round_trip() -> None:
    data = pack_header(Header())
    assert len(data) == HEADER_SIZE
    assert unpack_header(data) == Header(MAJOR, MINOR, 0, 0)


def test_its_bytes_are_those_of_the_contract() -> None:
    data = pack_header(Header())
    assert data[:12] == b"WHERRY\r\n\x01\x00\x01\x00"
    assert data[12:56] == bytes(44)
    assert data[56:] == blake3(data[:56]).digest()[:8]


@pytest.mark.parametrize(
    ("header", "error", "words"),
    [
        (
            Header(major=MAJOR + 1, minor=0),
            ImageVersionError,
            f"format {MAJOR + 1}.0 is newer than",
        ),
        (Header(major=0xFFFF, minor=7), ImageVersionError, "upgrade wherry"),
        (Header(major=0), ImageVersionError, "never released"),
        (Header(incompatible=1 << 17), ImageVersionError, "incompatible feature bit 17"),
        (Header(incompatible=1 << 63), ImageVersionError, "incompatible feature bit 63"),
        (Header(incompatible=1), ImageVersionError, r"'encryption' \(bit 0\)"),
        (Header(incompatible=3 | 1 << 40), ImageVersionError, "'external-chunks'.*bit 40"),
    ],
)
def test_refuses(header: Header, error: type[ImageError], words: str) -> None:
    with pytest.raises(error, match=words):
        unpack_header(pack_header(header))


@pytest.mark.parametrize(
    ("header", "words", "expected"),
    [
        (
            Header(major=2, minor=0),
            b"wherry 0.9 or later",
            "format 2.0 (wherry 0.9 or later) is newer",
        ),
        (Header(incompatible=1 << 9), b"wherry 0.7: sparse", "bit 9 (wherry 0.7: sparse), which"),
        (Header(major=2, minor=0), b"\x1b[31mred", "format 2.0 is newer"),
        (Header(major=2, minor=0), b"\xff" * 24, "format 2.0 is newer"),
    ],
)
def test_a_newer_writer_can_say_who_reads_its_image(
    header: Header, words: bytes, expected: str
) -> None:
    fixed = pack_header(header)[:32] + words.ljust(24, b"\0")
    with pytest.raises(ImageVersionError) as caught:
        unpack_header(checked(fixed))
    assert expected in str(caught.value)


def test_every_reserved_feature_is_refused_by_name() -> None:
    for bit, name in RESERVED_INCOMPATIBLE.items():
        with pytest.raises(ImageVersionError, match=f"feature '{name}'"):
            unpack_header(pack_header(Header(incompatible=1 << bit)))


def test_unknown_compatible_features_and_minors_are_accepted() -> None:
    header = Header(minor=999, compatible=(1 << 64) - 1)
    read = unpack_header(pack_header(header))
    assert read == header
    assert "bit 63" in read.features


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "image-truncated"),
        (MAGIC, "image-truncated"),
        (pack_header(Header())[:-1], "image-truncated"),
        (b"\x7fELF" + bytes(60), "not-an-image"),
        (b"WHERRY\n" + bytes(57), "not-an-image"),
        (b"PK", "not-an-image"),
        (MAGIC + bytes(56), "image-corrupt"),
        (checked(MAGIC + b"\1\0\0\0" + b"\1" + bytes(43)), "image-corrupt"),
        (checked(MAGIC + b"\1\0\0\0" + bytes(43) + b"\1"), "image-corrupt"),
    ],
    ids=[
        "empty",
        "magic",
        "cut",
        "elf",
        "text-mode",
        "short-foreign",
        "check",
        "reserved",
        "reserved-too",
    ],
)
def test_what_is_no_header(data: bytes, reason: str) -> None:
    with pytest.raises(ImageCorruptError) as caught:
        unpack_header(data)
    assert caught.value.reason == reason
