"""Where a store keeps its objects: the few operations that every kind of storage can do.

An *object* is a name and immutable bytes. Names are relative paths of one to three components,
each matching ``[a-z0-9][a-z0-9._-]*``. A store never changes an object: it makes it, reads parts of
it, lists, and removes. So a directory, SFTP, S3 and a registry differ in little.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*){0,2}")


class Entry(NamedTuple):
    """One object of a listing.

    Attributes:
        name: Its whole name.
        size: Bytes.
    """

    name: str
    size: int


class Backend(Protocol):
    """One place that holds a store's objects.

    Safe to call from several threads at once. Every method raises `StoreError` when the storage
    fails, with reason ``store-unreachable`` when trying again later may help.
    """

    @property
    def url(self) -> str:
        """How people name it; without secrets."""

    def put(self, name: str, data: bytes | bytearray | memoryview, *, replace: bool = True) -> bool:
        """Make an object: it is there whole and durable when this returns, or not at all.

        Args:
            name: Matches `NAME`.
            data: All of it.
            replace: What to do when the name is taken. With False the existing object stays.

        Returns:
            Whether *data* is what the name now has; False when *replace* was False and the name
            was taken, also by another writer in the same moment where the storage can tell.
        """

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object from *offset* on, *length* of them or all.

        Raises:
            StoreError: reason ``object-missing``; ``object-short`` when it ends too early.
        """

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """The objects whose names begin with the components of *prefix*, in no order.

        An object that another writer makes or removes meanwhile may be among them or not.
        """

    def remove(self, name: str) -> None:
        """Remove an object; one that is not there is no error."""

    def close(self) -> None:
        """Let go of connections. Idempotent."""


@runtime_checkable
class Linking(Protocol):
    """A backend whose objects others may copy one by one: an object can take along what it needs.

    Copies of a snapshot are worth little without its packs.
    """

    def link(self, name: str, others: Iterable[str]) -> None:
        """Let an object carry other objects, until it is put again.

        Args:
            name: The object.
            others: Names of the others.

        Raises:
            StoreError: One of them is not there, ``object-missing``; or they are too many,
                ``object-too-large``.
        """
