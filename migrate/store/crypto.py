"""Encryption at rest: everything but the configuration is sealed with AES-256-GCM.

Every store has one *master key*, random, from which BLAKE3's key derivation mode makes three keys:
for the names of chunks (keyed BLAKE3, so that a name tells nothing of the content), for sealing,
and for the key check.

Each object has keys of its own, keyed BLAKE3 of ``kind, purpose, object id`` under the sealing key;
purpose 0 is for parts, 1 for the bodies of a pack. A part is 12 bytes of random nonce, then
ciphertext and tag; the associated data is ``kind, number of the part, object id``. A body has no
nonce of its own: it is the body's offset (8 bytes, little-endian, then four zeros), for the id of a
pack is never used for other contents. So no part can take another's place, and no body either.

The key check in the configuration is keyed BLAKE3 of the configuration without it: it tells a wrong
key from damage, and that nobody has changed the configuration.

The master key is in ``keys/ID`` objects, once for each way to unlock it, wrapped with AES-256-GCM
under a key that comes from a password or the content of a key file (scrypt), or from an X25519 key
exchange with a recipient.
"""

from __future__ import annotations

import hmac
import os
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from formats import wire
from formats.errors import ImageCorruptError
from formats.keyed import KEY_SIZE, derived_key, keyed_digest
from migrate.errors import StoreError
from migrate.store.backend import Backend
from migrate.store.config import StoreConfig, without_check
from migrate.store.objects import (
    FOLDERS,
    ID_SIZE,
    Kind,
    damaged,
    id_from,
    name_of,
    pack_object,
    read_object,
)
from migrate.store.sealing import Bytes, PlainSeal

_NAMES = "wherry 2026 store: names of chunks"
_SEALING = "wherry 2026 store: sealing of objects"
_CHECK = "wherry 2026 store: key check"
_FILE_SEALING = "wherry 2026 state file: sealing of blocks"
_FILE_CHECK = "wherry 2026 state file: key check"
_RECIPIENT = "wherry 2026 store: wrapping for a recipient"

_NONCE_SIZE = 12
_BODY_NONCE = struct.Struct("<QI")
_PART, _BODIES = 0, 1
_CACHED = 64  # ciphers of packs

# scrypt, RFC 7914: 64 MiB of memory, a quarter of a second. What others may ask us to spend is
# bounded, too.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 16, 8, 1
_MAX_N, _MAX_R, _MAX_P = 1 << 17, 8, 4


class AeadSeal:
    """The protection of an encrypted store; see `migrate.store.sealing.Seal`."""

    encrypts = True

    def __init__(self, master: bytes) -> None:
        self._master = master
        self._names = derived_key(_NAMES, master)
        self._sealing = derived_key(_SEALING, master)
        self._ciphers: dict[bytes, AESGCM] = {}
        self._lock = threading.Lock()

    @property
    def master(self) -> bytes:
        """The master key, to be wrapped once more."""
        return self._master

    def key_check(self, config: StoreConfig) -> bytes:
        """What the configuration's key check must be."""
        return keyed_digest(derived_key(_CHECK, self._master), without_check(config))

    def name_of(self, plain: Bytes, /) -> bytes:
        return keyed_digest(self._names, plain)

    def seal_part(self, kind: int, object_id: bytes, number: int, payload: bytes) -> bytes:
        nonce = os.urandom(_NONCE_SIZE)
        cipher = AESGCM(self._key(kind, _PART, object_id))
        return nonce + cipher.encrypt(nonce, payload, bytes([kind, number]) + object_id)

    def open_part(self, kind: int, object_id: bytes, number: int, stored: bytes) -> bytes:
        cipher = AESGCM(self._key(kind, _PART, object_id))
        about = bytes([kind, number]) + object_id
        return _opened(cipher, stored[:_NONCE_SIZE], stored[_NONCE_SIZE:], about)

    def seal_body(self, pack_id: bytes, offset: int, body: Bytes) -> Bytes:
        return self._cipher(pack_id).encrypt(_BODY_NONCE.pack(offset, 0), body, None)

    def open_body(self, pack_id: bytes, offset: int, stored: Bytes) -> Bytes:
        return _opened(self._cipher(pack_id), _BODY_NONCE.pack(offset, 0), stored, None)

    def _key(self, kind: int, purpose: int, object_id: bytes) -> bytes:
        return keyed_digest(self._sealing, bytes([kind, purpose]) + object_id)

    def _cipher(self, pack_id: bytes) -> AESGCM:
        with self._lock:
            cipher = self._ciphers.get(pack_id)
            if cipher is None:
                cipher = AESGCM(self._key(Kind.PACK, _BODIES, pack_id))
                if len(self._ciphers) >= _CACHED:
                    del self._ciphers[next(iter(self._ciphers))]
                self._ciphers[pack_id] = cipher
            return cipher


def _opened(cipher: AESGCM, nonce: bytes, sealed: Bytes, about: bytes | None) -> bytes:
    try:
        return cipher.decrypt(nonce, sealed, about)
    except (InvalidTag, ValueError):
        raise ImageCorruptError("does not open with the store's key: it was changed") from None


class FileCipher:
    """The cipher of one encrypted state file; see `formats.sealed_file.Cipher`."""

    def __init__(self, master: bytes) -> None:
        self._check = derived_key(_FILE_CHECK, master)
        self._cipher = AESGCM(derived_key(_FILE_SEALING, master))

    def check(self, before: bytes, /) -> bytes:
        return keyed_digest(self._check, before)

    def seal(self, nonce: bytes, plain: Bytes, /) -> bytes:
        return self._cipher.encrypt(nonce, plain, None)

    def open(self, nonce: bytes, sealed: Bytes, /) -> bytes:
        try:
            return self._cipher.decrypt(nonce, sealed, None)
        except (InvalidTag, ValueError):
            raise ImageCorruptError("does not open with the file's key: it was changed") from None


# Keys


@dataclass(frozen=True, slots=True)
class Secret:
    """What unlocks a key.

    Attributes:
        method: ``password``, ``key-file`` or ``recipient``.
        value: The password's or the file's bytes; for a recipient empty.
        private: A recipient's private key, to open; None where only the public one is known.
        public: A recipient's public key, 32 bytes.
    """

    method: str
    value: bytes = field(default=b"", repr=False)
    private: X25519PrivateKey | None = field(default=None, repr=False)
    public: bytes = b""


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One way to unlock a store.

    Attributes:
        key_id: 16 bytes.
        method: As in `Secret`.
        label: For people.
        created_ns: Wall-clock time, UTC.
        fields: What unwrapping needs.
    """

    key_id: bytes
    method: str
    label: str
    created_ns: int
    fields: dict[str, Any]


def new_master() -> bytes:
    """A new master key."""
    return os.urandom(KEY_SIZE)


def add_key(
    backend: Backend, config: StoreConfig, master: bytes, secret: Secret, *, label: str = ""
) -> bytes:
    """Let a secret unlock the store, too; the id of the new key object."""
    key_id = os.urandom(ID_SIZE)
    fields = wrapped_key(config.store_id, master, secret, label=label)
    raw = pack_object(PlainSeal(), Kind.KEY, key_id, wire.pack(fields))
    backend.put(name_of(Kind.KEY, key_id), raw)
    return key_id


def wrapped_key(owner: bytes, master: bytes, secret: Secret, *, label: str = "") -> dict[str, Any]:
    """A master key, wrapped for one secret; what is in a key object.

    Args:
        owner: Id of the store or file that the key belongs to.
        master: The key.
        secret: Opens it.
        label: For people.
    """
    fields: dict[str, Any] = {
        "method": secret.method,
        "label": label,
        "created_ns": time.time_ns(),
    }
    if secret.method == "recipient":
        ephemeral = X25519PrivateKey.generate()
        fields["recipient"] = secret.public
        fields["ephemeral"] = ephemeral.public_key().public_bytes_raw()
        shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(secret.public))
        wrapping = _recipient_key(shared, fields)
    else:
        fields |= {"salt": os.urandom(16), "n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P}
        wrapping = _scrypt_key(secret.value, fields)
    fields["nonce"] = os.urandom(_NONCE_SIZE)
    about = owner + secret.method.encode()
    fields["wrapped"] = AESGCM(wrapping).encrypt(fields["nonce"], master, about)
    return fields


def read_keys(backend: Backend) -> list[KeyInfo]:
    """All ways to unlock a store, the oldest first; StoreError when one is damaged."""
    found = []
    for entry in backend.entries(FOLDERS[Kind.KEY]):
        key_id = id_from(Kind.KEY, entry.name)
        if key_id is not None:
            payload, _ = read_object(backend, PlainSeal(), Kind.KEY, key_id)
            found.append(_unpack_key(payload, key_id, entry.name))
    return sorted(found, key=lambda key: (key.created_ns, key.key_id))


def unlock(backend: Backend, config: StoreConfig, secret: Secret) -> AeadSeal:
    """Open an encrypted store.

    Raises:
        StoreError: Reason ``store-key`` when the secret opens none of its keys; ``store-damaged``
            when the configuration was changed.
    """
    for key in read_keys(backend):
        if key.method != secret.method:
            continue
        master = unwrapped_key(config.store_id, key, secret)
        if master is not None:
            seal = AeadSeal(master)
            if not hmac.compare_digest(seal.key_check(config), config.key_check):
                raise damaged("config", "is not what the holder of the key has written")
            return seal
    raise StoreError(
        f"{backend.url}: this {secret.method.replace('-', ' ')} opens none of the store's keys",
        reason="store-key",
    )


def unwrapped_key(owner: bytes, key: KeyInfo, secret: Secret) -> bytes | None:
    """The master key, or None when the secret is another one's; *owner* as for `wrapped_key`."""
    if secret.method == "recipient":
        if secret.private is None or key.fields["recipient"] != secret.public:
            return None
        other = X25519PublicKey.from_public_bytes(key.fields["ephemeral"])
        try:
            wrapping = _recipient_key(secret.private.exchange(other), key.fields)
        except ValueError:  # an ephemeral key of low order: nobody honest makes one
            return None
    else:
        wrapping = _scrypt_key(secret.value, key.fields)
    try:
        master = AESGCM(wrapping).decrypt(
            key.fields["nonce"], key.fields["wrapped"], owner + key.method.encode()
        )
    except (InvalidTag, ValueError):
        return None
    return master if len(master) == KEY_SIZE else None


def _scrypt_key(value: bytes, fields: dict[str, Any]) -> bytes:
    scrypt = Scrypt(
        salt=fields["salt"], length=KEY_SIZE, n=fields["n"], r=fields["r"], p=fields["p"]
    )
    return scrypt.derive(value)


def _recipient_key(shared: bytes, fields: dict[str, Any]) -> bytes:
    return derived_key(_RECIPIENT, shared + fields["ephemeral"] + fields["recipient"])


_TYPES: dict[str, dict[str, tuple[type, Callable[[Any], bool]]]] = {
    "scrypt": {
        "salt": (bytes, lambda value: len(value) == 16),
        "n": (int, lambda value: 2 <= value <= _MAX_N and value & (value - 1) == 0),
        "r": (int, lambda value: 1 <= value <= _MAX_R),
        "p": (int, lambda value: 1 <= value <= _MAX_P),
    },
    "recipient": {
        "recipient": (bytes, lambda value: len(value) == KEY_SIZE),
        "ephemeral": (bytes, lambda value: len(value) == KEY_SIZE),
    },
    "all": {
        "method": (str, lambda value: value in ("password", "key-file", "recipient")),
        "label": (str, lambda value: len(value) <= 200),
        "created_ns": (int, lambda value: 0 <= value < 1 << 63),
        "nonce": (bytes, lambda value: len(value) == _NONCE_SIZE),
        "wrapped": (bytes, lambda value: len(value) == KEY_SIZE + 16),
    },
}


def _unpack_key(payload: bytes, key_id: bytes, name: str) -> KeyInfo:
    try:
        value = wire.unpack(payload)
    except ImageCorruptError as exc:
        raise damaged(name, str(exc)) from None
    return key_from(value, key_id, name)


def key_from(value: object, key_id: bytes, name: str) -> KeyInfo:
    """Judge what `wrapped_key` gives, as it was read; StoreError when it is malformed."""
    if type(value) is not dict:
        raise damaged(name, "is malformed")
    more = "recipient" if value.get("method") == "recipient" else "scrypt"
    for key, (kind, fits) in (_TYPES["all"] | _TYPES[more]).items():
        if type(value.get(key)) is not kind or not fits(value[key]):
            raise damaged(name, f"has no valid {key}")
    return KeyInfo(key_id, value["method"], value["label"], value["created_ns"], value)
