"""A store that is open: its configuration, its key, its index and its snapshots."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from formats.errors import WherryError
from migrate.errors import StoreError
from migrate.store.backend import Backend
from migrate.store.condemned import masked_packs, read_condemned
from migrate.store.config import (
    CONFIG_SIZE,
    Operation,
    StoreConfig,
    new_config,
    pack_config,
    unpack_config,
)
from migrate.store.index import (
    MAX_INDEX_BLOCK,
    ChunkMap,
    PackInfo,
    for_each_section,
)
from migrate.store.locks import WRITE, Lock
from migrate.store.objects import (
    CONFIG_NAME,
    FOLDERS,
    HEADER_SIZE,
    ID_SIZE,
    MAX_FIRST_SIZE,
    Kind,
    damaged,
    id_from,
    name_of,
    open_object,
    open_part,
    pack_object,
    read_object,
    unpack_header,
)
from migrate.store.open import open_backend
from migrate.store.sealing import PlainSeal, Seal
from migrate.store.snapshots import Snapshot, find_snapshot, pack_description, unpack_description
from migrate.store.throttle import throttled

if TYPE_CHECKING:
    from migrate.store.crypto import Secret

_FIRST_READ = 4096  # header and description of nearly every snapshot
_PARALLEL = 8  # small objects that are fetched at once
_ATTEMPTS = 5  # at a list of objects that others are changing

Unlock = Callable[[Backend, StoreConfig], Seal]
"""Finds the key of an encrypted store."""


class Store:
    """An open store; a context manager that closes its connections.

    It may be used after a fork: `disconnect` before it, and either side connects anew.

    Attributes:
        url: Where it is.
        config: Its configuration.
        seal: Its protection.
        put_limit: Bytes per second that are written to it, from the next connection on; None for
            all there is.
    """

    def __init__(
        self, url: str, config: StoreConfig, seal: Seal, backend: Backend | None = None
    ) -> None:
        self.url = url
        self.config = config
        self.seal = seal
        self._backend = backend
        self.put_limit: float | None = None

    @property
    def backend(self) -> Backend:
        """Where the objects are; connects when that is not done yet."""
        if self._backend is None:
            opened = open_backend(self.url)
            limit = self.put_limit
            self._backend = opened if limit is None else throttled(opened, limit)
        return self._backend

    def disconnect(self) -> None:
        """Close the connections until they are needed again. Idempotent."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.disconnect()

    def require(self, operation: Operation) -> None:
        """StoreError when this wherry is too old for *operation* here."""
        self.config.require(operation, self.url)

    # The index

    def load_index(self) -> ChunkMap:
        """Which pack has which chunk.

        Raises:
            StoreError: An index object is damaged; ``wherry store check`` says more.
        """
        for _ in range(_ATTEMPTS):
            # Condemned packs first: one that is condemned later is caught by the pruner, who
            # waits for us then.
            chunks = ChunkMap(masked_packs(read_condemned(self.backend, self.seal)))
            sizes = self.sizes(Kind.INDEX)
            try:
                for index_id, payload in self._first_parts(Kind.INDEX, sizes):
                    name = name_of(Kind.INDEX, index_id)
                    chunks.add(index_id, for_each_section(payload, name=name))
            except StoreError as exc:
                if exc.reason != "object-missing":
                    raise
                continue  # a pruner has put another object into its place
            return chunks
        raise StoreError(
            f"{self.url}: the index changes all the time; try again", reason="store-unreachable"
        )

    def write_index(self, sections: Iterable[bytes]) -> list[bytes]:
        """Put packs on record (`pack_section`); the ids of the new index objects."""
        ids = []
        block = bytearray()
        for section in sections:
            block += section
            if len(block) >= MAX_INDEX_BLOCK:
                ids.append(self._write_index_block(block))
                block = bytearray()
        if block:
            ids.append(self._write_index_block(block))
        return ids

    def _write_index_block(self, block: bytearray) -> bytes:
        index_id = os.urandom(ID_SIZE)
        raw = pack_object(self.seal, Kind.INDEX, index_id, bytes(block))
        self.backend.put(name_of(Kind.INDEX, index_id), raw)
        return index_id

    # Snapshots

    def snapshots(self, *, failures: list[WherryError] | None = None) -> list[Snapshot]:
        """All snapshots, the oldest first.

        Args:
            failures: Gets what is wrong with those that cannot be read; without it that is raised.
        """
        found = []
        entries = list(self.sizes(Kind.SNAPSHOT).items())

        def read(entry: tuple[bytes, int]) -> Snapshot | WherryError:
            try:
                return self._read_description(*entry)
            except WherryError as exc:
                return exc

        for one in _parallel(read, entries):
            if isinstance(one, Snapshot):
                found.append(one)
            elif getattr(one, "reason", "") == "object-missing":
                continue  # forgotten a moment ago
            elif failures is None:
                raise one
            else:
                failures.append(one)
        return sorted(found, key=lambda one: (one.created_ns, one.snapshot_id))

    def find(self, wanted: str) -> Snapshot:
        """The snapshot that somebody means; see `find_snapshot`."""
        failures: list[WherryError] = []
        try:
            return find_snapshot(self.snapshots(failures=failures), wanted, self.url)
        except StoreError as exc:
            for failure in failures:
                exc.add_note(str(failure))
            raise

    def read_image(self, snapshot_id: bytes) -> tuple[Snapshot, bytes]:
        """A snapshot's description and its image.

        Raises:
            StoreError: It is missing or damaged.
        """
        name = name_of(Kind.SNAPSHOT, snapshot_id)
        first, image = read_object(self.backend, self.seal, Kind.SNAPSHOT, snapshot_id)
        snapshot = unpack_description(first, snapshot_id, name)
        if image is None or len(image) != snapshot.image_size:
            raise damaged(name, f"holds no image of {snapshot.image_size} bytes")
        return snapshot, image

    def write_snapshot(self, snapshot: Snapshot, image: bytes) -> None:
        """Let a snapshot appear, or change what is said about one."""
        raw = pack_object(
            self.seal, Kind.SNAPSHOT, snapshot.snapshot_id, pack_description(snapshot), image
        )
        self.backend.put(name_of(Kind.SNAPSHOT, snapshot.snapshot_id), raw)

    def set_tags(self, snapshot: Snapshot, tags: Iterable[str]) -> Snapshot:
        """Give a snapshot other tags."""
        self.require(Operation.WRITE)
        # A writer like any other: should somebody forget it meanwhile, its chunks stay until we
        # have brought it back.
        with Lock(self.backend, self.seal, WRITE) as lock:
            current, image = self.read_image(snapshot.snapshot_id)
            changed = dataclasses.replace(current, tags=tuple(sorted(set(tags))))
            self.write_snapshot(changed, image)
            lock.require_held()
        return changed

    def forget(self, snapshots: Iterable[Snapshot]) -> None:
        """Remove snapshots; a prune then reclaims the space of their chunks."""
        self.require(Operation.DELETE)
        for one in snapshots:
            self.backend.remove(name_of(Kind.SNAPSHOT, one.snapshot_id))

    def remove_snapshot(self, wanted: str) -> bytes:
        """Remove one snapshot, which may be damaged if *wanted* is its whole id; its id."""
        self.require(Operation.DELETE)
        whole = id_from(Kind.SNAPSHOT, f"{FOLDERS[Kind.SNAPSHOT]}/{wanted}")
        found = whole if whole in self.sizes(Kind.SNAPSHOT) else None
        snapshot_id = found or self.find(wanted).snapshot_id
        self.backend.remove(name_of(Kind.SNAPSHOT, snapshot_id))
        return snapshot_id

    def _read_description(self, snapshot_id: bytes, size: int) -> Snapshot:
        name = name_of(Kind.SNAPSHOT, snapshot_id)
        raw = self.backend.get(name, 0, min(size, _FIRST_READ))
        header = unpack_header(self.seal, Kind.SNAPSHOT, snapshot_id, raw, name=name)
        end = HEADER_SIZE + header.first_size
        if header.first_size > _FIRST_READ << 6 or header.object_size != size:
            raise damaged(name, f"has {size} bytes, its header says {header.object_size}")
        if end > len(raw):
            raw = self.backend.get(name, 0, end)
        first = open_part(self.seal, Kind.SNAPSHOT, snapshot_id, 0, raw[HEADER_SIZE:end], name=name)
        return unpack_description(first, snapshot_id, name)

    # Objects

    def sizes(self, kind: Kind) -> dict[bytes, int]:
        """The objects of a kind that are there, with their sizes in bytes."""
        return {
            object_id: entry.size
            for entry in self.backend.entries(FOLDERS[kind])
            if (object_id := id_from(kind, entry.name)) is not None
        }

    def require_packs(self, packs: Iterable[PackInfo]) -> None:
        """StoreError (``store-damaged``) when a pack is not there as the index says."""
        sizes = self.sizes(Kind.PACK)
        for info in packs:
            if sizes.get(info.pack_id) != info.size:
                found = sizes.get(info.pack_id)
                raise damaged(
                    name_of(Kind.PACK, info.pack_id),
                    "is missing" if found is None else f"has {found} bytes, not {info.size}",
                )

    def _first_parts(self, kind: Kind, sizes: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
        def read(item: tuple[bytes, int]) -> tuple[bytes, bytes]:
            object_id, size = item
            name = name_of(kind, object_id)
            if size > HEADER_SIZE + MAX_FIRST_SIZE:
                raise damaged(name, f"has {size} bytes")
            raw = self.backend.get(name, 0, size)
            return object_id, open_object(self.seal, kind, object_id, raw, name=name)[0]

        yield from _parallel(read, list(sizes.items()))


def _parallel(read: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
    """As ``map``; for several items in threads, since each may be a round trip away."""
    if len(items) < 2:
        yield from map(read, items)
        return
    with ThreadPoolExecutor(min(_PARALLEL, len(items)), "wherry-store") as pool:
        yield from pool.map(read, items)


def open_store(url: str, operation: Operation, unlock: Unlock) -> Store:
    """Open a store that exists.

    Args:
        url: See `migrate.store.open.open_backend`.
        operation: What is to be done.
        unlock: Called for an encrypted store.

    Raises:
        StoreError: No store is there (``not-a-store``), it cannot be reached, it is of a newer
            format, or the key does not fit (``store-key``).
    """
    backend = open_backend(url)
    try:
        raw = _read_config(backend, url)
        config = unpack_config(raw, url)
        config.require(operation, url)
        seal: Seal = unlock(backend, config) if config.encrypted else PlainSeal()
    except BaseException:
        backend.close()
        raise
    return Store(url, config, seal, backend)


def init_store(url: str, secret: Secret | None = None) -> Store:
    """Make a store.

    Args:
        url: Where.
        secret: Encrypts it, and unlocks it; further ones can be added.

    Raises:
        StoreError: Reason ``store-exists``.
    """
    backend = open_backend(url)
    config = new_config(encrypted=secret is not None)
    seal: Seal = PlainSeal()
    try:
        if backend_has_config(backend):
            raise _exists(url)
        if secret is not None:
            from migrate.store.crypto import AeadSeal, add_key, new_master

            master = new_master()
            seal = AeadSeal(master)
            config = dataclasses.replace(config, key_check=seal.key_check(config))
            add_key(backend, config, master, secret)
        publish_config(backend, config, url)
    except BaseException:
        backend.close()
        raise
    return Store(url, config, seal, backend)


def backend_has_config(backend: Backend) -> bool:
    """Whether a store is there already."""
    try:
        backend.get(CONFIG_NAME, 0, 1)
    except StoreError as exc:
        if exc.reason in ("object-missing", "object-short"):
            return exc.reason == "object-short"
        raise
    return True


def publish_config(backend: Backend, config: StoreConfig, url: str) -> None:
    """Make a store appear: its configuration is the last thing that is written."""
    if not backend.put(CONFIG_NAME, pack_config(config), replace=False):
        raise _exists(url)


def _exists(url: str) -> StoreError:
    return StoreError(f"{url}: a store is there already", reason="store-exists")


def _read_config(backend: Backend, url: str) -> bytes:
    try:
        return backend.get(CONFIG_NAME, 0, CONFIG_SIZE)
    except StoreError as exc:
        if exc.reason == "object-missing":
            raise StoreError(
                f"{url}: no store is there; wherry store init makes one", reason="not-a-store"
            ) from exc
        if exc.reason == "object-short":
            raise StoreError(f"{url}: config is cut short", reason="store-damaged") from exc
        raise
