"""Encrypted stores: nothing can be read, nothing can be changed unnoticed, several keys unlock."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from formats import wire
from formats.errors import WherryError
from migrate.errors import StoreError
from migrate.store import crypto, packs, secrets
from migrate.store.check import check_store
from migrate.store.config import Operation, pack_config, unpack_config
from migrate.store.crypto import Secret, add_key, read_keys
from migrate.store.objects import Kind, name_of, pack_object
from migrate.store.prune import prune
from migrate.store.sealing import PlainSeal
from migrate.store.store import Store, init_store, open_store
from tests.migrate.store.samples import flip, noise, read_snapshot, write_snapshot

PASSWORD = Secret("password", b"correct horse")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt is made to be slow."""
    monkeypatch.setattr(crypto, "SCRYPT_N", 1 << 4)
    monkeypatch.setattr(packs, "PACK_SIZE", 11_250)


@pytest.fixture
def store(scratch: Path) -> Store:
    return init_store(str(scratch / "s"), PASSWORD)


def unlocked(store: Store, secret: Secret = PASSWORD) -> Store:
    return open_store(
        store.url, Operation.READ, lambda backend, config: crypto.unlock(backend, config, secret)
    )


def files(store: Store, folder: str = "") -> list[Path]:
    return sorted(path for path in (Path(store.url) / folder).rglob("*") if path.is_file())


def test_a_snapshot_comes_back_and_chunks_are_shared(store: Store) -> None:
    first = write_snapshot(store, [*noise(1, 2, 3), b"text " * 9000])
    second = write_snapshot(unlocked(store), noise(3, 4))
    assert second.new_chunks == 1
    for snapshot, contents in ((first, [*noise(1, 2, 3), b"text " * 9000]), (second, noise(3, 4))):
        assert read_snapshot(unlocked(store), snapshot) == contents
    assert check_store(unlocked(store), read_data=True, progress=lambda *_: None).damages == []
    store.forget([first])
    assert prune(unlocked(store)).removed_packs
    assert read_snapshot(unlocked(store), second) == noise(3, 4)


def test_nothing_readable_is_in_it(store: Store) -> None:
    (secret,) = noise(7)
    snapshot = write_snapshot(
        store, [secret, b"password=hunter2 " * 1000], cid="payroll", tags=("quarterly",)
    )
    everything = b"".join(path.read_bytes() for path in files(store))
    for text in (
        b"hunter2",
        b"payroll",
        b"quarterly",
        b"hostname",
        b"shared-memory",
        snapshot.root,
    ):
        assert text not in everything
    assert not any(secret[at : at + 16] in everything for at in range(0, len(secret) - 16, 997))
    from formats.frames import digest_of

    # The plain hash of a chunk would tell who has the same.
    assert digest_of(secret) not in everything


def test_two_stores_name_the_same_chunk_differently(store: Store, scratch: Path) -> None:
    other = init_store(str(scratch / "t"), PASSWORD)
    assert store.seal.name_of(b"x") != other.seal.name_of(b"x")


def test_a_wrong_password_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="opens none") as caught:
        unlocked(store, Secret("password", b"wrong horse"))
    assert caught.value.reason == "store-key"
    assert "horse" not in repr(PASSWORD)


def test_every_way_to_unlock(store: Store, scratch: Path) -> None:
    (scratch / "key").write_bytes(b"k" * 32)
    private = X25519PrivateKey.generate()
    (scratch / "id.pem").write_bytes(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (scratch / "id.pub").write_bytes(
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (scratch / "pw").write_text("another one\n")
    assert isinstance(store.seal, crypto.AeadSeal)
    master = store.seal.master
    news = [
        secrets.key_file(scratch / "key"),
        secrets.recipient(scratch / "id.pub"),
        secrets.password_from_file(scratch / "pw"),
    ]
    for secret in news:
        add_key(store.backend, store.config, master, secret, label="x")
    opening = [
        PASSWORD,
        secrets.key_file(scratch / "key"),
        secrets.identity(scratch / "id.pem"),
        secrets.password_from_command("printf 'another one\\n'"),
    ]
    for secret in opening:
        seal = unlocked(store, secret).seal
        assert isinstance(seal, crypto.AeadSeal) and seal.master == master
    keys = read_keys(store.backend)
    assert [key.method for key in keys] == ["password", "key-file", "recipient", "password"]
    store.backend.remove(name_of(Kind.KEY, keys[0].key_id))
    with pytest.raises(StoreError, match="opens none"):
        unlocked(store)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (secrets.key_file, "needs 32"),
        (secrets.identity, "no private key"),
        (secrets.recipient, "no public key"),
        (lambda path: secrets.password_from_file(path.parent / "none"), "No such file"),
        (lambda path: secrets.password_from_command("false"), "exited with 1"),
        (lambda path: secrets.password_secret(""), "is empty"),
    ],
)
def test_bad_secrets_are_named(scratch: Path, make: object, match: str) -> None:
    (scratch / "short").write_bytes(b"abc")
    with pytest.raises(StoreError, match=match):
        make(scratch / "short")  # type: ignore[operator]


def test_every_flipped_bit_is_found(store: Store) -> None:
    write_snapshot(store, noise(1, 2, 3))
    dice = random.Random(3)
    for folder in ("packs", "index", "snapshots", "keys"):
        for path in files(store, folder):
            original = path.read_bytes()
            for _ in range(8):
                flip(path, dice.randrange(len(original)))
                damages = check_store(store, read_data=True, progress=lambda *_: None).damages
                assert any(path.name in one.name + one.sentence for one in damages), path
                path.write_bytes(original)


def test_bodies_and_packs_cannot_change_places(store: Store) -> None:
    snapshot = write_snapshot(store, noise(1, 2, 3, 4))
    one, two = files(store, "packs")
    first, second = one.read_bytes(), two.read_bytes()
    assert len(first) == len(second)
    # Another pack's bodies below this pack's own header and table.
    head = len(first) - 2 * (7_500 + 16)
    one.write_bytes(first[:head] + second[head:])
    with pytest.raises(WherryError, match="was changed"):
        read_snapshot(store, snapshot)


def test_a_configuration_that_claims_to_be_plain_is_noticed(store: Store) -> None:
    write_snapshot(store, noise(1))
    path = Path(store.url) / "config"
    config = unpack_config(path.read_bytes(), "s")
    plain = dataclasses.replace(config, incompatible=(0,) * 5, key_check=bytes(32))
    path.write_bytes(pack_config(plain))
    with pytest.raises(StoreError, match="is sealed"):
        unlocked(store).snapshots()
    # Nor can a flag be added by somebody who does not have the key.
    path.write_bytes(pack_config(dataclasses.replace(config, compatible=4)))
    with pytest.raises(StoreError, match="not what the holder of the key"):
        unlocked(store)


@pytest.mark.parametrize(
    "change",
    [
        {"n": 1 << 30},
        {"n": 12345},
        {"r": 100},
        {"p": 99},
        {"salt": b""},
        {"method": "magic"},
        {"wrapped": b"x" * 9},
        {"created_ns": "now"},
    ],
)
def test_a_hostile_key_object_costs_nothing(store: Store, change: dict[str, object]) -> None:
    (key,) = read_keys(store.backend)
    raw = pack_object(PlainSeal(), Kind.KEY, key.key_id, wire.pack(key.fields | change))
    store.backend.put(name_of(Kind.KEY, key.key_id), raw)
    with pytest.raises(StoreError, match="has no valid"):
        unlocked(store)
