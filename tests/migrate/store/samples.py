"""Snapshots for the tests of stores, and a backend that breaks off."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from formats.chunks import Chunk
from formats.limits import CHUNK_SIZE
from formats.records.image import Host, Image
from formats.records.memory import SharedMemory
from migrate.errors import StoreError
from migrate.store.backend import Backend, Entry
from migrate.store.config import new_config
from migrate.store.local import LocalBackend
from migrate.store.reading import open_snapshot
from migrate.store.sealing import PlainSeal
from migrate.store.snapshots import Snapshot
from migrate.store.store import Store, init_store, publish_config
from migrate.store.writer import writing
from tests.formats.samples import copy_of

MOMENT_NS = 1_700_000_000 * 10**9


def noise(*seeds: int, size: int = 7_500) -> list[bytes]:
    """Chunks that do not compress, one for each seed."""
    return [random.Random(seed).randbytes(size) for seed in seeds]


def over(store: Store, backend: Backend) -> Store:
    """The same store, as somebody sees it through another backend."""
    return Store(store.url, store.config, store.seal, backend)


def write_snapshot(
    store: Store,
    contents: Sequence[bytes],
    *,
    cid: str = "job",
    created_ns: int = MOMENT_NS,
    tags: tuple[str, ...] = (),
    workers: int = 2,
) -> Snapshot:
    """Write a snapshot whose only object has these chunks one after another."""
    with writing(store, workers=workers) as writer:
        writer.add_record(Image(cid, created_ns, "0.1", {"hostname": cid}, {}))
        writer.add_record(Host("x86_64", "6.18", "here", 4096, (), 2696, b"\1" * 32, 5, 6))
        writer.add_record(SharedMemory(1, len(contents) * CHUNK_SIZE))
        for number, content in enumerate(contents):
            start = number * CHUNK_SIZE
            writer.add_chunk(1, start, [(start, len(content))], copy_of(content))
        writer.finish()
        return writer.publish(tags=tags)


def read_snapshot(store: Store, snapshot: Snapshot, *, threads: bool = True) -> list[bytes]:
    """The chunks of a snapshot that `write_snapshot` has written, read and checked.

    Args:
        store, snapshot: Which.
        threads: Read in threads, as a restore into a sandbox does; or as one with a time namespace.
    """
    source = open_snapshot(store, snapshot.snapshot_id)
    found: dict[int, bytes] = {}
    lock = threading.Lock()

    def take(chunk: Chunk, plain: memoryview) -> None:
        with lock:
            found[chunk.offset] = bytes(plain)

    try:
        assert source.reader.records()
        if threads:
            source.reader.for_each_chunk(take)
        else:
            found = {chunk.offset: bytes(chunk.unpack()) for chunk in source.reader.chunks()}
        assert source.reader.finish().root == snapshot.root
    finally:
        source.chunks.close()
    return [found[offset] for offset in sorted(found)]


class KilledError(BaseException):
    """Stands for the end of the process: nobody may handle it."""


class BreaksOff:
    """A backend whose process ends at its n-th change of the store.

    Args:
        inner: The real one.
        after: Changes that are made before the end; the one after them is not.
    """

    def __init__(self, inner: Backend, after: int) -> None:
        self._inner = inner
        self._left = after
        self._lock = threading.Lock()
        self.changes = 0

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, name: str, data: bytes | bytearray | memoryview, *, replace: bool = True) -> bool:
        self._count()
        return self._inner.put(name, data, replace=replace)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._alive()
        return self._inner.get(name, offset, length)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        self._alive()
        return self._inner.entries(prefix)

    def remove(self, name: str) -> None:
        self._count()
        self._inner.remove(name)

    def close(self) -> None:
        self._inner.close()

    def _count(self) -> None:
        with self._lock:
            self._alive()
            self._left -= 1
            self._alive()
            self.changes += 1

    def _alive(self) -> None:
        if self._left < 0:
            raise KilledError


def new_store(path: Path) -> Store:
    """A new store that is not encrypted."""
    return init_store(str(path))


def local(store: Store) -> LocalBackend:
    """Another backend over a store in a directory."""
    return LocalBackend(Path(store.url))


def flip(path: Path, at: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << at % 8
    path.write_bytes(data)


class Interrupts:
    """A backend under which somebody else does something before the n-th operation.

    Args:
        inner: The real one.
        at: How many operations come before that.
        what: Done once, between two operations.
    """

    def __init__(self, inner: Backend, at: int, what: Callable[[], object]) -> None:
        self._inner = inner
        self._at = at
        self._what = what
        self._lock = threading.RLock()
        self.operations = 0

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, name: str, data: bytes | bytearray | memoryview, *, replace: bool = True) -> bool:
        self._step()
        return self._inner.put(name, data, replace=replace)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._step()
        return self._inner.get(name, offset, length)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        self._step()
        return iter(list(self._inner.entries(prefix)))

    def remove(self, name: str) -> None:
        self._step()
        self._inner.remove(name)

    def close(self) -> None:
        self._inner.close()

    def _step(self) -> None:
        with self._lock:
            self.operations += 1
            if self.operations == self._at + 1:
                self._what()


class InMemory:
    """A backend for tests that make hundreds of stores: a disk's syncs would take their time."""

    url = "memory"

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def put(self, name: str, data: bytes | bytearray | memoryview, *, replace: bool = True) -> bool:
        if not replace and name in self._objects:
            return False
        self._objects[name] = bytes(data)
        return True

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        found = self._objects.get(name)
        if found is None:
            raise StoreError(f"{name} is missing", reason="object-missing")
        end = len(found) if length is None else offset + length
        if end > len(found):
            raise StoreError(f"{name} is short", reason="object-short")
        return found[offset:end]

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        folder = f"{prefix}/" if prefix else ""
        objects = list(self._objects.items())
        return iter([Entry(name, len(raw)) for name, raw in objects if name.startswith(folder)])

    def remove(self, name: str) -> None:
        self._objects.pop(name, None)

    def close(self) -> None:
        pass


def memory_store() -> Store:
    """A new store in memory."""
    backend = InMemory()
    config = new_config(encrypted=False)
    publish_config(backend, config, backend.url)
    return Store(backend.url, config, PlainSeal(), backend)
