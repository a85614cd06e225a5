"""Signed snapshots: what does not verify is not used."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from migrate.errors import StoreError
from migrate.store.carrier import plan_snapshot_restore
from migrate.store.signing import require_signature, signer, verify_key
from migrate.store.snapshots import Snapshot
from migrate.store.store import Store
from tests.migrate.store.samples import new_store, noise, read_snapshot, write_snapshot


@pytest.fixture
def store(scratch: Path) -> Store:
    return new_store(scratch / "s")


def keys(folder: Path, name: str, key: Ed25519PrivateKey | X25519PrivateKey) -> tuple[Path, Path]:
    """Files of a private and a public key."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def signed(store: Store, private: Path, *seeds: int) -> Snapshot:
    made = write_snapshot(store, noise(*seeds))
    snapshot = signer(private)(made)
    store.write_snapshot(snapshot, store.read_image(made.snapshot_id)[1])
    return snapshot


def refused(store: Store, snapshot: Snapshot, public: Path) -> StoreError:
    with pytest.raises(StoreError) as caught:
        plan_snapshot_restore(
            store, snapshot.snapshot_id, None, "new", verify_keys=[verify_key(public)]
        )
    return caught.value


def test_a_signature_survives_other_tags(store: Store, scratch: Path) -> None:
    private, public = keys(scratch, "a", Ed25519PrivateKey.generate())
    _, other = keys(scratch, "b", Ed25519PrivateKey.generate())
    snapshot = signed(store, private, 1, 2)
    changed = store.set_tags(snapshot, ["later"])
    (found,) = store.snapshots()
    assert found == changed and found.tags == ("later",)
    require_signature(found, [verify_key(other), verify_key(public)])
    assert read_snapshot(store, found) == noise(1, 2)


def test_what_is_not_signed_by_the_key_is_not_restored(store: Store, scratch: Path) -> None:
    private, public = keys(scratch, "a", Ed25519PrivateKey.generate())
    _, other = keys(scratch, "b", Ed25519PrivateKey.generate())
    assert refused(store, write_snapshot(store, noise(1)), public).reason == "not-signed"
    assert refused(store, signed(store, private, 1), other).reason == "bad-signature"


@pytest.mark.parametrize(
    "change", [{"container_id": "web"}, {"created_ns": 5}, {"root": b"r" * 32}]
)
def test_a_changed_description_does_not_verify(
    store: Store, scratch: Path, change: dict[str, object]
) -> None:
    private, public = keys(scratch, "a", Ed25519PrivateKey.generate())
    snapshot = signed(store, private, 1)
    _, image = store.read_image(snapshot.snapshot_id)
    store.write_snapshot(dataclasses.replace(snapshot, **change), image)  # type: ignore[arg-type]
    assert "somebody has changed it" in str(refused(store, snapshot, public))


def test_another_image_under_a_signed_description_is_found(store: Store, scratch: Path) -> None:
    private, public = keys(scratch, "a", Ed25519PrivateKey.generate())
    snapshot = signed(store, private, 1)
    _, image = store.read_image(write_snapshot(store, noise(2)).snapshot_id)
    store.write_snapshot(dataclasses.replace(snapshot, image_size=len(image)), image)
    assert "another snapshot's" in str(refused(store, snapshot, public))


def test_a_signature_does_not_fit_another_snapshot(store: Store, scratch: Path) -> None:
    private, public = keys(scratch, "a", Ed25519PrivateKey.generate())
    snapshot = signed(store, private, 1)
    copy = dataclasses.replace(snapshot, snapshot_id=b"c" * 16)
    store.write_snapshot(copy, store.read_image(snapshot.snapshot_id)[1])
    assert refused(store, copy, public).reason == "bad-signature"


def test_keys_of_another_kind_are_refused(scratch: Path) -> None:
    private, public = keys(scratch, "x", X25519PrivateKey.generate())
    with pytest.raises(StoreError, match="not an Ed25519 key"):
        signer(private)
    with pytest.raises(StoreError, match="not an Ed25519 key"):
        verify_key(public)
    with pytest.raises(StoreError, match="no private key"):
        signer(public)
    with pytest.raises(StoreError, match="No such file"):
        verify_key(scratch / "none")
