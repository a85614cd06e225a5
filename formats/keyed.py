"""BLAKE3 with a key: names that tell nothing, and keys made from keys."""

from __future__ import annotations

from blake3 import blake3

KEY_SIZE = 32


def keyed_digest(key: bytes, data: bytes | bytearray | memoryview) -> bytes:
    """BLAKE3 in its keyed mode, 32 bytes; *key* has 32. Releases the GIL for more than 2 KiB."""
    return blake3(data, key=key).digest()


def derived_key(context: str, material: bytes) -> bytes:
    """BLAKE3 in its key derivation mode: a key of 32 bytes for one purpose.

    Args:
        context: The purpose; a constant of the program, never anybody's input.
        material: A secret of full strength, as another key is; no password.
    """
    return blake3(material, derive_key_context=context).digest()
