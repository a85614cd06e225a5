"""Signatures: who has made an image. Ed25519 of the `cryptography` package, keys in PEM.

Of a state file, ``b"wherry image 1\\n"`` and the signed digest of `formats.signature` are signed.

Of a snapshot, ``b"wherry snapshot 1\\n"``, the snapshot's id (16), the root digest of its image
(32), the time (8, little-endian) and the container's id (UTF-8) are signed. The root digest covers
the image and so the names of all chunks, which cover their contents. Tags are not signed: they may
change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from formats.signature import Signed, find_signature
from migrate.errors import StoreError
from migrate.store.snapshots import Snapshot

_CONTEXT = b"wherry snapshot 1\n"
_IMAGE_CONTEXT = b"wherry image 1\n"

Sign = Callable[[Snapshot], Snapshot]
"""Gives a snapshot its signature."""


def signer(path: Path) -> Sign:
    """Signs with the private key in a file; ``openssl genpkey -algorithm ed25519`` makes one.

    Raises:
        StoreError: Reason ``signing-key``: the file holds none.
    """
    key = _private_key(path)
    public = key.public_key().public_bytes_raw()

    def sign(snapshot: Snapshot) -> Snapshot:
        return dataclasses.replace(snapshot, signer=public, signature=key.sign(_message(snapshot)))

    return sign


def image_signer(path: Path) -> Callable[[bytes], bytes]:
    """Signs state files with the private key in a file, for `ImageWriter`; raises as `signer`."""
    key = _private_key(path)
    public = key.public_key().public_bytes_raw()
    return lambda digest: public + key.sign(_IMAGE_CONTEXT + digest)


def judge_image(source: FileIO, keys: Sequence[bytes]) -> Signed:
    """See that one of the keys has signed a state file.

    Args:
        source: The file, at its start, where it is left.
        keys: Public keys, 32 bytes each.

    Raises:
        StoreError: Reason ``not-signed`` or ``bad-signature``.
        ImageError: It is damaged.
    """
    name = Path(str(source.name)).name
    signed = find_signature(source)
    if signed is None:
        raise _not_signed(name)
    _require(name, signed.key, signed.signature, _IMAGE_CONTEXT + signed.digest, keys)
    return signed


def _private_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(_content(path), password=None)
    except (ValueError, TypeError) as exc:
        raise StoreError(f"{path}: no private key: {exc}", reason="signing-key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise StoreError(f"{path}: not an Ed25519 key", reason="signing-key")
    return key


def verify_key(path: Path) -> bytes:
    """The public key in a file, 32 bytes; ``openssl pkey -pubout`` prints one."""
    try:
        key = load_pem_public_key(_content(path))
    except ValueError as exc:
        raise StoreError(f"{path}: no public key: {exc}", reason="signing-key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise StoreError(f"{path}: not an Ed25519 key", reason="signing-key")
    return key.public_bytes_raw()


def require_signature(snapshot: Snapshot, keys: Sequence[bytes]) -> None:
    """See that one of the keys has signed a snapshot's description.

    That the image is the one of the description is the caller's to see.

    Raises:
        StoreError: Reason ``not-signed`` or ``bad-signature``.
    """
    name = f"snapshot {snapshot.short_id}"
    if not snapshot.signature:
        raise _not_signed(name)
    _require(name, snapshot.signer, snapshot.signature, _message(snapshot), keys)


def _not_signed(name: str) -> StoreError:
    return StoreError(f"{name} is not signed", reason="not-signed")


def _require(
    name: str, signer: bytes, signature: bytes, message: bytes, keys: Sequence[bytes]
) -> None:
    if signer not in keys:
        raise StoreError(
            f"{name} is signed with {signer.hex()[:16]}…, which is none of the keys given",
            reason="bad-signature",
        )
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise StoreError(
            f"{name}: its signature does not verify: somebody has changed it",
            reason="bad-signature",
        ) from None


def _message(snapshot: Snapshot) -> bytes:
    container = snapshot.container_id.encode(errors="surrogateescape")
    created = snapshot.created_ns.to_bytes(8, "little")
    return _CONTEXT + snapshot.snapshot_id + snapshot.root + created + container


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1 << 16)
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}", reason="signing-key") from exc
