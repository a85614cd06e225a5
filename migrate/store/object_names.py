"""Which names and sizes of objects are believed, whoever says them.

A store lies on storage that others can write to. What a listing says becomes part of paths and
requests, so it is checked here, once for all kinds of storage.
"""

from __future__ import annotations

import re

from migrate.errors import StoreError
from migrate.store.backend import NAME

MAX_OBJECT_SIZE = 256 << 20
"""Bytes of the largest object: a whole one is held in memory."""
COMPONENT = re.compile(r"[a-z0-9][a-z0-9._-]*")


def require_name(name: str) -> None:
    """Refuse what is no object's name.

    Raises:
        StoreError: reason ``object-name``.
    """
    if NAME.fullmatch(name) is None:
        raise StoreError(f"{name!r} is not the name of an object", reason="object-name")


def require_prefix(prefix: str) -> None:
    """Refuse what is neither empty nor the first components of a name."""
    if prefix:
        require_name(prefix)


def require_writable_size(name: str, size: int) -> None:
    """Refuse to make an object that nobody could read whole.

    Raises:
        StoreError: reason ``object-too-large``.
    """
    if size > MAX_OBJECT_SIZE:
        raise StoreError(
            f"{name}: {size} bytes are more than the {MAX_OBJECT_SIZE} of the largest object",
            reason="object-too-large",
        )


def wanted_length(name: str, size: int, offset: int, length: int | None) -> int:
    """How many bytes to read of an object of *size* bytes.

    Args:
        name: For the message.
        size: What the storage says; not believed beyond `MAX_OBJECT_SIZE`.
        offset: First byte.
        length: Bytes, or None for all up to the end.

    Raises:
        StoreError: reason ``object-short`` when it ends before what is wanted, ``store-protocol``
            when no object can be as large as the storage says.
    """
    if not 0 <= size <= MAX_OBJECT_SIZE:
        raise StoreError(
            f"{name}: the storage says that it has {size} bytes, which no object has",
            reason="store-protocol",
        )
    wanted = size - offset if length is None else length
    if wanted < 0 or offset + wanted > size:
        raise short(name, offset, wanted, size)
    return wanted


def short(name: str, offset: int, wanted: int, size: int) -> StoreError:
    """An object ends too early: after *size* bytes, where more are needed."""
    return StoreError(
        f"{name}: {max(wanted, 0)} bytes at {offset} are wanted, but it ends at {size}; it is"
        " damaged or was not copied whole",
        reason="object-short",
    )


def missing(name: str) -> StoreError:
    """An object is not there."""
    return StoreError(f"{name}: there is no such object", reason="object-missing")


def believed(name: str, size: object, where: str) -> bool:
    """Judge one object of a listing.

    Returns:
        Whether it is an object. What others keep in the same place is not.

    Raises:
        StoreError: The name leads somewhere else or the size is none: no honest storage says such
            a thing; reason ``store-protocol``.
    """
    if name.startswith("/") or "\0" in name or {"", ".", ".."} & set(name.split("/")):
        raise StoreError(
            f"{where}: the storage lists the name {name!r}, which leads somewhere else",
            reason="store-protocol",
        )
    if NAME.fullmatch(name) is None:
        return False
    if not isinstance(size, int) or size < 0:
        raise StoreError(
            f"{where}: the storage lists {name} with {size!r} bytes", reason="store-protocol"
        )
    return True


def begins_with(name: str, prefix: str) -> bool:
    """Whether a name begins with the components of *prefix*."""
    return not prefix or name == prefix or name.startswith(prefix + "/")
