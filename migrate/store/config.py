"""``config``: which format a store has, and what somebody must know who works on it.

128 bytes, little-endian. Its layout stays the same in every future version, so that an old wherry
can always say why it refuses.

offset  size  field
0       8     magic, ``b"WHERRYC\\n"``
8       2     major: refuse one above your own
10      2     minor: informative
12      4     reserved, zero
16      8     compatible feature flags: ignore those that you do not know
24      8     incompatible feature flags for reading: listing, looking into, and verifying snapshots
32      8     the same for restoring
40      8     the same for writing snapshots
48      8     the same for deleting snapshots
56      8     the same for pruning
64      16    id of the store, random
80      32    key check, zero in a store that is not encrypted (`migrate.store.crypto`)
112     8     reserved, zero
120     8     check: the first 8 bytes of BLAKE3 over bytes 0 to 119

An operation is refused for an unknown flag of its own word. The flags for reading are asked about
in every operation. Bit 0 of each word is ``encryption``: a key is needed.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import struct
from dataclasses import dataclass

from formats.frames import digest_of
from migrate.errors import StoreError

MAGIC = b"WHERRYC\n"
MAJOR, MINOR = 1, 0
CONFIG_SIZE = 128
ENCRYPTION = 1  # bit 0 of every word of incompatible flags
NO_KEY_CHECK = bytes(32)

_LAYOUT = struct.Struct("<8sHH4xQQQQQQ16s32s8x")
_CHECK_SIZE = 8
_NAMES = {0: "encryption"}


class Operation(enum.IntEnum):
    """What is to be done with a store; the value is the place of its word of flags."""

    READ = 0
    RESTORE = 1
    WRITE = 2
    DELETE = 3
    PRUNE = 4


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """What ``config`` says.

    Attributes:
        store_id: 16 random bytes.
        compatible: Feature flags.
        incompatible: Feature flags by operation, in the order of `Operation`.
        key_check: Shows that a key is the right one; zeros without encryption.
        minor: Of the format.
    """

    store_id: bytes
    compatible: int = 0
    incompatible: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    key_check: bytes = NO_KEY_CHECK
    minor: int = MINOR

    @property
    def encrypted(self) -> bool:
        """Whether a key is needed."""
        return bool(self.incompatible[Operation.READ] & ENCRYPTION)

    def require(self, operation: Operation, url: str) -> None:
        """StoreError when the store has a feature that this wherry must know for *operation*."""
        for one in {Operation.READ, operation}:
            unknown = self.incompatible[one] & ~ENCRYPTION
            if unknown:
                bits = ", ".join(str(bit) for bit in range(64) if unknown >> bit & 1)
                raise StoreError(
                    f"{url}: to {operation.name.lower()}, feature bit {bits} must be known, which "
                    "this wherry does not; upgrade wherry on this host",
                    reason="store-version",
                )


def new_config(*, encrypted: bool) -> StoreConfig:
    """The configuration of a new store, its key check still empty."""
    flag = ENCRYPTION if encrypted else 0
    return StoreConfig(os.urandom(16), incompatible=(flag, flag, flag, flag, flag))


def pack_config(config: StoreConfig) -> bytes:
    """The 128 bytes."""
    fixed = _LAYOUT.pack(
        MAGIC,
        MAJOR,
        config.minor,
        config.compatible,
        *config.incompatible,
        config.store_id,
        config.key_check,
    )
    return fixed + digest_of(fixed)[:_CHECK_SIZE]


def unpack_config(raw: bytes, url: str) -> StoreConfig:
    """Read and judge a configuration.

    Raises:
        StoreError: Reason ``not-a-store``, ``store-damaged`` or ``store-version``.
    """
    if raw[:8] != MAGIC:
        raise StoreError(
            f"{url}: no store: config starts with {raw[:8].hex(' ')}", reason="not-a-store"
        )
    if len(raw) != CONFIG_SIZE or raw[_LAYOUT.size :] != digest_of(raw[: _LAYOUT.size])[:8]:
        raise StoreError(f"{url}: config is damaged", reason="store-damaged")
    _, major, minor, compatible, *flags, store_id, key_check = _LAYOUT.unpack_from(raw)
    if major != MAJOR:
        raise StoreError(
            f"{url}: a store of format {major}.{minor}, this wherry reads {MAJOR}.{MINOR}; upgrade "
            "wherry on this host",
            reason="store-version",
        )
    read, restore, write, delete, prune = flags
    config = StoreConfig(
        store_id, compatible, (read, restore, write, delete, prune), key_check, minor
    )
    if pack_config(config) != raw:
        raise StoreError(f"{url}: config uses bytes that are reserved", reason="store-damaged")
    if config.encrypted and config.key_check == NO_KEY_CHECK:
        raise StoreError(f"{url}: config lacks its key check", reason="store-damaged")
    return config


def without_check(config: StoreConfig) -> bytes:
    """What the key check of an encrypted store covers: all of it but the check itself."""
    return pack_config(dataclasses.replace(config, key_check=NO_KEY_CHECK))
