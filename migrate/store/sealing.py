"""How a store protects what it holds: with digests, or with authenticated encryption.

`PlainSeal` is for a store without encryption; `migrate.store.crypto` has the other one.
"""

from __future__ import annotations

from typing import Protocol

from formats.errors import ImageCorruptError
from formats.frames import digest_of

_DIGEST_SIZE = 32

Bytes = bytes | bytearray | memoryview


class Seal(Protocol):
    """Protects the parts of objects and the bodies of chunks, and names chunks.

    Thread-safe. What opens raises ImageCorruptError when the bytes are not those that were sealed
    for this very place.
    """

    @property
    def encrypts(self) -> bool:
        """Whether bytes are hidden, too."""

    def name_of(self, plain: Bytes, /) -> bytes:
        """The name of a chunk, 32 bytes."""

    def seal_part(self, kind: int, object_id: bytes, number: int, payload: bytes) -> bytes:
        """Part *number* of an object as it is stored."""

    def open_part(self, kind: int, object_id: bytes, number: int, stored: bytes) -> bytes:
        """The payload of a part."""

    def seal_body(self, pack_id: bytes, offset: int, body: Bytes) -> Bytes:
        """A chunk's body as it stands at *offset* of a pack's bodies."""

    def open_body(self, pack_id: bytes, offset: int, stored: Bytes) -> Bytes:
        """The body again."""


class PlainSeal:
    """Digests against accidents. Bodies have none: a chunk's name is compared instead."""

    encrypts = False

    def name_of(self, plain: Bytes, /) -> bytes:
        return digest_of(plain)

    def seal_part(self, kind: int, object_id: bytes, number: int, payload: bytes) -> bytes:
        return digest_of(payload) + payload

    def open_part(self, kind: int, object_id: bytes, number: int, stored: bytes) -> bytes:
        payload = stored[_DIGEST_SIZE:]
        if stored[:_DIGEST_SIZE] != digest_of(payload):
            raise ImageCorruptError("does not match its digest")
        return payload

    def seal_body(self, pack_id: bytes, offset: int, body: Bytes) -> Bytes:
        return body

    def open_body(self, pack_id: bytes, offset: int, stored: Bytes) -> Bytes:
        return stored
