"""The file header: which format this is, and what a reader must know.

64 bytes, little-endian. Its layout stays the same in every future version of the format, so that
an old reader can always say why it refuses.

offset  size  field
0       8     magic, ``b"WHERRY\\r\\n"``: a text-mode copy damages it visibly
8       2     major: a reader refuses one above its own
10      2     minor: informative; a reader accepts any
12      4     reserved, zero
16      8     compatible feature flags: a reader ignores those that it does not know
24      8     incompatible feature flags: a reader refuses those that it does not know
32      24    zero in version 1; in later ones words for older readers: which wherry reads this, and
              what it needs, ASCII, padded with zeros
56      8     check: the first 8 bytes of BLAKE3 over bytes 0 to 55

The format's version is its own; the version of the program that wrote an image is in its records.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from blake3 import blake3

from formats.errors import ImageCorruptError, ImageVersionError

MAGIC = b"WHERRY\r\n"
MAJOR = 1
MINOR = 1
HEADER_SIZE = 64

# Feature flags by bit. A bit is never used for something else later.
COMPATIBLE: dict[int, str] = {
    0: "signature",  # formats.signature
}
SIGNATURE = 1 << 0
INCOMPATIBLE: dict[int, str] = {}
# Bits with a settled meaning that a plain state file never has; so its reader can refuse them by
# name.
RESERVED_INCOMPATIBLE: dict[int, str] = {
    0: "encryption",  # an image is sealed in this file; needs a key
    1: "external-chunks",  # contents are in a store, not in this file
    2: "staged-memory",  # a part of the contents came before, in other images
    3: "pages-elsewhere",  # a part of the contents is asked for later
}

ENCRYPTION = 1 << 0  # formats.sealed_file reads and writes such files
EXTERNAL_CHUNKS = 1 << 1  # formats.external reads and writes such images
STAGED_MEMORY = 1 << 2  # formats.staged reads and writes such images
PAGES_ELSEWHERE = 1 << 3  # formats.elsewhere reads and writes such images

_FIXED = struct.Struct("<8sHH4xQQ24x")
_WORDS = slice(32, 56)
_CHECK_SIZE = 8


class Header(NamedTuple):
    """What the first 64 bytes say.

    Attributes:
        major, minor: Version of the format.
        compatible, incompatible: Feature flags, one bit each.
    """

    major: int = MAJOR
    minor: int = MINOR
    compatible: int = 0
    incompatible: int = 0

    @property
    def features(self) -> list[str]:
        """Names of all flags that are set, ``"bit N"`` for an unknown one."""
        known = COMPATIBLE, INCOMPATIBLE | RESERVED_INCOMPATIBLE
        flags = self.compatible, self.incompatible
        return [
            names.get(bit, f"bit {bit}")
            for word, names in zip(flags, known, strict=True)
            for bit in _bits(word)
        ]


def pack_header(header: Header) -> bytes:
    """The 64 bytes of a header, with its check."""
    fixed = _FIXED.pack(MAGIC, header.major, header.minor, header.compatible, header.incompatible)
    return fixed + _check(fixed)


def unpack_header(data: bytes, *, understood: int = 0) -> Header:
    """Read and judge the first 64 bytes of an image.

    Args:
        data: These bytes, or fewer when there are no more.
        understood: Reserved incompatible flags that this reader knows what to do with.

    Raises:
        ImageCorruptError: Not an image, cut short, or damaged.
        ImageVersionError: Written by a newer format, or with a feature that is unknown here.
    """
    if not data:
        raise ImageCorruptError("the image is empty", reason="image-truncated")
    if data[:8] != MAGIC[: len(data)]:
        raise ImageCorruptError(
            f"not a wherry image: it starts with {data[:8].hex(' ')}", reason="not-an-image"
        )
    if len(data) < HEADER_SIZE:
        raise ImageCorruptError(
            f"the header has {len(data)} of {HEADER_SIZE} bytes; copy the image again",
            reason="image-truncated",
        )
    if data[_FIXED.size :] != _check(data[: _FIXED.size]):
        raise ImageCorruptError("the header is damaged; copy the image again")
    _, major, minor, compatible, incompatible = _FIXED.unpack_from(data)
    header = Header(major, minor, compatible, incompatible)
    _judge(header, understood, _words(data))
    if _FIXED.pack(MAGIC, *header) != data[: _FIXED.size]:
        raise ImageCorruptError("a reserved byte of the header is not zero")
    return header


def _words(data: bytes) -> str:
    """What a newer writer has to say to us, who cannot read its image; it may hold anything."""
    words = data[_WORDS].rstrip(b"\0")
    if not words or any(not 32 <= byte < 127 for byte in words):
        return ""
    return f" ({words.decode('ascii')})"


def _judge(header: Header, understood: int, words: str) -> None:
    if header.major > MAJOR:
        raise ImageVersionError(
            f"format {header.major}.{header.minor}{words} is newer than {MAJOR}.{MINOR}, "
            "the newest this wherry reads; upgrade wherry on this host"
        )
    if header.major < MAJOR:
        raise ImageVersionError(f"format {header.major}.{header.minor} was never released")
    foreign = header.incompatible & ~understood
    unknown = [bit for bit in _bits(foreign) if bit not in INCOMPATIBLE]
    if unknown:
        if header.incompatible == ENCRYPTION and header.major == MAJOR:
            raise ImageVersionError(
                "it needs feature 'encryption' (bit 0): no key for it is at hand",
                reason="image-encrypted",
            )
        names = ", ".join(_feature_name(bit) for bit in unknown)
        raise ImageVersionError(
            f"the image needs {names}{words}, which this wherry does not know; upgrade wherry on "
            "this host"
        )


def _feature_name(bit: int) -> str:
    name = RESERVED_INCOMPATIBLE.get(bit)
    return f"feature {name!r} (bit {bit})" if name else f"incompatible feature bit {bit}"


def _bits(word: int) -> list[int]:
    return [bit for bit in range(64) if word >> bit & 1]


def _check(fixed: bytes) -> bytes:
    return blake3(fixed).digest(_CHECK_SIZE)
