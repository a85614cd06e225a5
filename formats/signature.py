"""Signatures: who has made a state file.

A state file with the compatible feature ``signature`` has one frame of type 128, after the last
chunk frame and before the index, not compressed: a public key (32 bytes) and a signature of the
*signed digest* (64 bytes). That is BLAKE3 over the 64 bytes of the header and over head and meta of
every frame before this one. Heads hold their bodies' digests, so it stands for every record and
every chunk. The index comes after it and says nothing of its own: a reader compares it with the
chunk frames.

How a digest is signed is not of this package: whoever writes gives a function, and whoever reads
judges what `find_signature` has found before anything of the image is used. Reading the image
itself comes then; `ImageReader.expect` sees that it is still the same one.
"""

from __future__ import annotations

import io
from io import FileIO
from typing import NamedTuple

from blake3 import blake3

from formats.errors import ImageCorruptError, ImageError
from formats.frames import Frame, FrameReader, FrameType, check_body
from formats.header import HEADER_SIZE, unpack_header
from formats.manifest import RootDigest

SIGNATURE_FRAME = 128
SIGNATURE_SIZE = 96  # public key and signature


class Signed(NamedTuple):
    """A signature as it was found; nobody has judged it yet.

    Attributes:
        digest: What it must be a signature of, 32 bytes.
        records: Digest of the heads of the records frames, which are used before all was read.
        key, signature: Ed25519, 32 and 64 bytes.
    """

    digest: bytes
    records: bytes
    key: bytes
    signature: bytes


def unpack_signature(frame: Frame, body: bytes | bytearray) -> tuple[bytes, bytes]:
    """Key and signature from a signature frame; ImageCorruptError for any other size."""
    check_body(frame.head, body)
    if frame.head.flags or frame.meta or len(body) != SIGNATURE_SIZE:
        raise ImageCorruptError(f"frame {frame.head.sequence} is no signature")
    return bytes(body[:32]), bytes(body[32:])


def find_signature(source: FileIO) -> Signed | None:
    """The signature of a state file, which is read without its bodies, at the cost of its index.

    Args:
        source: At its start, where it is left again.

    Returns:
        None when it has none.

    Raises:
        ImageError: It is damaged, or cannot be read here.
    """
    frames = FrameReader(source)
    raw = bytearray(HEADER_SIZE)
    size = frames.read_up_to(memoryview(raw))
    unpack_header(bytes(raw[:size]))
    root, records = RootDigest(bytes(raw)), blake3()
    found = None
    while found is None:
        frame = frames.next_frame()
        if frame.head.type == FrameType.END:
            break
        if frame.head.type == SIGNATURE_FRAME:
            key, signature = unpack_signature(frame, frames.read_body(frame))
            found = Signed(root.so_far(), records.digest(), key, signature)
            break
        root.add(frame.raw)
        if frame.head.type == FrameType.RECORDS:
            records.update(frame.raw)
        frames.position += frame.head.stored_size
        _seek(source, frames.position)
    _seek(source, 0)
    return found


def _seek(source: FileIO, position: int) -> None:
    try:
        source.seek(position, io.SEEK_SET)
    except OSError as exc:
        raise ImageError(
            f"{source.name}: cannot look for a signature: {exc.strerror}", reason="image-unreadable"
        ) from exc
