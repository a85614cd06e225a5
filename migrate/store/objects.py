"""Objects: what every file of a store begins with, and how its parts are protected.

An object is a header of 64 bytes and up to two parts. All numbers are little-endian.

offset  size  field
0       8     magic, ``b"WHERRYS\\n"``
8       2     major: a reader refuses one above its own
10      2     minor: informative
12      1     kind: 1 key, 2 lock, 3 pack, 4 index, 5 snapshot, 6 condemned packs
13      1     flags: bit 0 set when the parts are sealed; others zero
14      2     reserved, zero
16      4     first_size: bytes of the first part as stored
20      4     reserved, zero
24      8     second_size: bytes of the second part as stored; 0 for none
32      8     reserved, zero
40      16    id: the object's own, which its name has in hexadecimal
56      8     check: the first 8 bytes of BLAKE3 over bytes 0 to 55

A part is 32 bytes of BLAKE3 over its payload, then the payload; in an encrypted store it is a
nonce and what the AEAD made of the payload (`migrate.store.sealing`). The second part of a pack is
no such part: it is the bodies of its chunks, each protected for itself.
"""

from __future__ import annotations

import enum
import re
import struct
from typing import NamedTuple

from formats.errors import WherryError
from formats.frames import digest_of
from migrate.errors import StoreError
from migrate.store.backend import Backend
from migrate.store.sealing import Seal

MAGIC = b"WHERRYS\n"
MAJOR, MINOR = 1, 0
HEADER_SIZE = 64
ID_SIZE = 16
MAX_FIRST_SIZE = 40 << 20
MAX_SECOND_SIZE = 1 << 30
FLAG_SEALED = 1

_HEADER = struct.Struct("<8sHHBBHIIQQ16s")
_CHECK_SIZE = 8


class Kind(enum.IntEnum):
    """What an object is; the value is in its header."""

    KEY = 1
    LOCK = 2
    PACK = 3
    INDEX = 4
    SNAPSHOT = 5
    CONDEMNED = 6


FOLDERS = {
    Kind.KEY: "keys",
    Kind.LOCK: "locks",
    Kind.PACK: "packs",
    Kind.INDEX: "index",
    Kind.SNAPSHOT: "snapshots",
    Kind.CONDEMNED: "condemned",
}
CONFIG_NAME = "config"
_ID = re.compile(r"[0-9a-f]{32}")
_LOCK_NAME = re.compile(r"locks/([0-9a-f]{32})-[0-9]{1,9}")


class ObjectHeader(NamedTuple):
    """What the first 64 bytes of an object say, judged already.

    Attributes:
        first_size, second_size: Bytes of its parts as stored.
    """

    first_size: int
    second_size: int

    @property
    def object_size(self) -> int:
        """Bytes of the whole object."""
        return HEADER_SIZE + self.first_size + self.second_size


def name_of(kind: Kind, object_id: bytes) -> str:
    """The name of an object; a lock's has a number behind it (`migrate.store.locks`)."""
    text = object_id.hex()
    if kind is Kind.PACK:
        return f"{FOLDERS[kind]}/{text[:2]}/{text}"
    return f"{FOLDERS[kind]}/{text}"


def id_from(kind: Kind, name: str) -> bytes | None:
    """The id in an object's name; None for a name that no object of the kind has."""
    if kind is Kind.LOCK:
        match = _LOCK_NAME.fullmatch(name)
        return bytes.fromhex(match[1]) if match else None
    text = name.rpartition("/")[2]
    if not _ID.fullmatch(text):
        return None
    object_id = bytes.fromhex(text)
    return object_id if name_of(kind, object_id) == name else None


def pack_object(
    seal: Seal, kind: Kind, object_id: bytes, first: bytes, second: bytes | None = None
) -> bytes:
    """A whole object with one or two parts."""
    stored = seal.seal_part(kind, object_id, 0, first)
    more = b"" if second is None else seal.seal_part(kind, object_id, 1, second)
    return pack_header(seal, kind, object_id, len(stored), len(more)) + stored + more


def pack_header(
    seal: Seal, kind: Kind, object_id: bytes, first_size: int, second_size: int
) -> bytes:
    """The 64 bytes of a header."""
    flags = FLAG_SEALED if seal.encrypts else 0
    fixed = _HEADER.pack(
        MAGIC, MAJOR, MINOR, kind, flags, 0, first_size, 0, second_size, 0, object_id
    )
    return fixed + digest_of(fixed)[:_CHECK_SIZE]


def unpack_header(
    seal: Seal, kind: Kind, object_id: bytes, raw: bytes, *, name: str
) -> ObjectHeader:
    """Read and judge the header of an object.

    Raises:
        StoreError: Reason ``store-damaged``; or ``store-version`` for a newer format.
    """
    if len(raw) < HEADER_SIZE:
        raise damaged(name, f"has {len(raw)} bytes, a header {HEADER_SIZE}")
    fixed, check = raw[: _HEADER.size], raw[_HEADER.size : HEADER_SIZE]
    if fixed[:8] != MAGIC:
        raise damaged(name, f"is no object of a store: it starts with {fixed[:8].hex(' ')}")
    if check != digest_of(fixed)[:_CHECK_SIZE]:
        raise damaged(name, "has a damaged header")
    _, major, minor, found, flags, zero, first, zero2, second, zero3, own_id = _HEADER.unpack(fixed)
    if major != MAJOR:
        raise StoreError(
            f"{name}: format {major}.{minor}, this wherry reads {MAJOR}.{MINOR}; upgrade wherry on "
            "this host",
            reason="store-version",
        )
    if flags & ~FLAG_SEALED or zero or zero2 or zero3:
        raise damaged(name, "uses bits that are reserved")
    if found != kind or own_id != object_id:
        raise damaged(name, f"holds object {own_id.hex()} of kind {found}")
    if bool(flags & FLAG_SEALED) != seal.encrypts:
        raise damaged(name, "is not sealed" if seal.encrypts else "is sealed")
    if first > MAX_FIRST_SIZE or second > MAX_SECOND_SIZE:
        raise damaged(name, f"promises parts of {first} and {second} bytes")
    return ObjectHeader(first, second)


def read_object(
    backend: Backend, seal: Seal, kind: Kind, object_id: bytes, *, name: str | None = None
) -> tuple[bytes, bytes | None]:
    """Fetch an object and open its parts; a pack's bodies are not for this.

    Raises:
        StoreError: ``object-missing``, ``object-short``, ``store-damaged`` or what the storage has
            to say.
    """
    name = name or name_of(kind, object_id)
    raw = backend.get(name, 0, HEADER_SIZE)  # how long the rest may be is known from here on
    while True:
        header = unpack_header(seal, kind, object_id, raw, name=name)
        try:
            rest = backend.get(name, HEADER_SIZE, header.first_size + header.second_size)
            return open_object(seal, kind, object_id, raw + rest, name=name)
        except StoreError as exc:
            if exc.reason not in ("store-damaged", "object-short"):
                raise
            # Replaced between the two reads? Then its header tells.
            now = backend.get(name, 0, HEADER_SIZE)
            if now == raw:
                raise
            raw = now


def open_object(
    seal: Seal, kind: Kind, object_id: bytes, raw: bytes, *, name: str
) -> tuple[bytes, bytes | None]:
    """Open the parts of an object that was fetched already. Raises like `read_object`."""
    header = unpack_header(seal, kind, object_id, raw, name=name)
    if header.object_size != len(raw):
        raise damaged(name, f"has {len(raw)} bytes, its header says {header.object_size}")
    cut = HEADER_SIZE + header.first_size
    first = open_part(seal, kind, object_id, 0, raw[HEADER_SIZE:cut], name=name)
    if not header.second_size:
        return first, None
    return first, open_part(seal, kind, object_id, 1, raw[cut:], name=name)


def open_part(
    seal: Seal, kind: Kind, object_id: bytes, number: int, stored: bytes, *, name: str
) -> bytes:
    """Open one part; StoreError (``store-damaged``) when it is not what was written."""
    try:
        return seal.open_part(kind, object_id, number, stored)
    except WherryError as exc:
        raise damaged(name, str(exc)) from None


def damaged(name: str, what: str) -> StoreError:
    """The error for an object that is not as it was written."""
    return StoreError(f"{name} {what}; run wherry store check", reason="store-damaged")
