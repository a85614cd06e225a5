"""Stores of every format version stay readable for ever: plain, signed, and encrypted.

``golden/vX.Y-…`` was written by the version of that name and is never changed. For a new version
add one of each with ``python -m tests.migrate.store.test_golden``.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from migrate.store import config, objects
from migrate.store.backend import Backend
from migrate.store.check import check_store
from migrate.store.config import Operation, StoreConfig
from migrate.store.crypto import AeadSeal, Secret, add_key, unlock
from migrate.store.prune import prune
from migrate.store.sealing import Seal
from migrate.store.secrets import password_secret
from migrate.store.signing import require_signature, signer
from migrate.store.store import Store, init_store, open_store
from migrate.store.writer import writing
from tests.formats.samples import copy_of, small_chunks, small_records
from tests.migrate.store.samples import read_snapshot

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = ("v1.0",)
SIGNING = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
RECIPIENT = X25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
PASSWORD = password_secret("golden")


def recipient() -> Secret:
    public = RECIPIENT.public_key().public_bytes_raw()
    return Secret("recipient", private=RECIPIENT, public=public)


def opened(path: Path, secret: Secret | None) -> Store:
    def unlocked(backend: Backend, config: StoreConfig) -> Seal:
        assert secret is not None
        return unlock(backend, config, secret)

    return open_store(str(path), Operation.PRUNE, unlocked)


def test_this_version_has_them() -> None:
    assert (config.MAJOR, config.MINOR) == (objects.MAJOR, objects.MINOR)
    assert f"v{config.MAJOR}.{config.MINOR}" in VERSIONS
    kinds = ("plain", "sealed")
    expected = {f"{version}-{kind}" for version in VERSIONS for kind in kinds}
    assert {path.name for path in GOLDEN.iterdir()} == expected


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("secret", [None, recipient(), PASSWORD], ids=["plain", "key", "password"])
def test_it_reads_as_it_was_written(version: str, secret: Secret | None, scratch: Path) -> None:
    path = scratch / "store"
    shutil.copytree(GOLDEN / f"{version}-{'sealed' if secret else 'plain'}", path)
    with opened(path, secret) as store:
        first, second = store.snapshots()
        assert (first.tags, second.tags) == (("first",), ("signed",))
        require_signature(second, [SIGNING.public_key().public_bytes_raw()])
        contents = [plain for *_, plain in small_chunks()]
        for _ in range(2):  # also after a prune by this version
            assert sorted(read_snapshot(store, first)) == sorted(contents[:2])
            assert sorted(read_snapshot(store, second)) == sorted(contents)
            assert check_store(store, read_data=True, progress=lambda *_: None).damages == []
            prune(store, max_unused=0)


def _write(path: Path, scratch: Path, secret: Secret | None) -> None:
    private = scratch / "key.pem"
    private.write_bytes(SIGNING.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    store = init_store(str(path), secret)
    if secret is not None:
        assert isinstance(store.seal, AeadSeal)
        add_key(store.backend, store.config, store.seal.master, PASSWORD)
    for count, tag in ((2, "first"), (3, "signed")):
        with writing(store, workers=0) as writer:
            for rec in small_records():
                writer.add_record(rec)
            for object_id, offset, runs, plain in small_chunks()[:count]:
                writer.add_chunk(object_id, offset, runs, copy_of(plain))
            writer.finish()
            sign = signer(private) if tag == "signed" else lambda snapshot: snapshot
            writer.publish(tags=(tag,), sign=sign)
    private.unlink()


if __name__ == "__main__":
    name = f"v{config.MAJOR}.{config.MINOR}"
    if any(GOLDEN.glob(f"{name}-*")):
        sys.exit(f"{name} exists; golden stores are never rewritten")
    GOLDEN.mkdir(exist_ok=True)
    _write(GOLDEN / f"{name}-plain", GOLDEN, None)
    _write(GOLDEN / f"{name}-sealed", GOLDEN, recipient())
