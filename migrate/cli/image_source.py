"""An image as a command names it: a state file, or a snapshot of a store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from formats.statefile import ImageReader, open_image
from migrate.cli.store_options import Place, at_reference, opened

if TYPE_CHECKING:
    from formats.sealed_file import Unlock
    from formats.statefile import Source
    from migrate.store.config import Operation
    from migrate.store.snapshots import Snapshot
    from migrate.store.store import Store

_TELL_EVERY = 4 << 20  # bytes; a progress bar costs more than reading a frame's head


@dataclass(frozen=True, slots=True)
class Subject:
    """An image that is open.

    Attributes:
        name: As messages call it.
        reader: At its start.
        size: Bytes of the file; of a snapshot's contents, plain.
        path: The state file, or None.
        stored_size: Of a snapshot: the bytes that a chunk of this name takes in the store.
        unlock: Finds the key of a state file.
        naming: How its chunks are named: only images of the same naming can be compared.
    """

    name: str
    reader: ImageReader
    size: int
    path: Path | None = None
    stored_size: Callable[[bytes], int] = lambda _: 0
    naming: bytes = b""
    unlock: Unlock | None = None


@contextlib.contextmanager
def open_subject(
    text: str, place: Place, on_bytes: Callable[[int], object] = lambda _: None
) -> Iterator[Subject]:
    """Open what *text* names: a file if there is one, else a snapshot.

    Args:
        text: A path, ``STORE:ID``, or ``ID`` in the store of the options.
        place: The store of the options.
        on_bytes: Told how far a state file was read.

    Raises:
        ImageError, StoreError: It cannot be read, or there is none.
    """
    path = Path(text)
    if path.exists() or _looks_like_a_file(text, place):
        unlock = place.unlock_file(path)
        with open_image(path, unlock) as source:
            reader = ImageReader(_Counting(source, on_bytes), name=path.name)
            yield Subject(str(path), reader, path.stat().st_size, path, unlock=unlock)
        return
    from migrate.store.config import Operation
    from migrate.store.reading import open_snapshot

    with snapshot_at(text, place, Operation.READ) as (store, snapshot):
        _, external, chunks = open_snapshot(store, snapshot.snapshot_id)
        try:
            yield Subject(
                f"{store.url}:{snapshot.snapshot_id.hex()}",
                external,
                snapshot.plain_bytes,
                stored_size=chunks.stored_size,
                naming=store.config.store_id if store.config.encrypted else b"",
            )
        finally:
            chunks.close()


@contextlib.contextmanager
def snapshot_at(text: str, place: Place, operation: Operation) -> Iterator[tuple[Store, Snapshot]]:
    """The snapshot that *text* names, and its store, open until the end of the block."""
    at, wanted = at_reference(text, place)
    with opened(at, operation) as store:
        yield store, store.find(wanted)


def _looks_like_a_file(text: str, place: Place) -> bool:
    """Whether a name that nothing has is rather meant as a file's."""
    return ":" not in text and ("/" in text or not place.url)


class _Counting:
    """A source that tells how far it has been read."""

    def __init__(self, source: Source, on_bytes: Callable[[int], object]) -> None:
        self._source = source
        self._on_bytes = on_bytes
        self._done = self._told = 0

    def readinto(self, buffer: memoryview, /) -> int | None:
        """As the source's own."""
        got = self._source.readinto(buffer)
        self._done += got or 0
        if self._done - self._told >= _TELL_EVERY:
            self._told = self._done
            self._on_bytes(self._done)
        return got
