"""Writing a snapshot: what the store has already is only mentioned.

The order makes a crash harmless at any moment: packs first, then the index that tells of them, at
last the snapshot. What a crash leaves behind is packs that no index knows, or chunks that no
snapshot needs, and the next prune takes these away.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from formats.external import ExternalImageWriter
from formats.manifest import ImageSummary
from formats.pipeline import Piece
from formats.records.codec import unpack_record
from formats.records.image import Host, Image
from migrate.errors import StoreError
from migrate.store.backend import Linking
from migrate.store.index import Entry, Location, PackInfo, for_each_section, pack_section
from migrate.store.locks import WRITE, Lock
from migrate.store.objects import CONFIG_NAME, ID_SIZE, Kind, name_of
from migrate.store.packs import PackBuilder, body_of, read_pack
from migrate.store.reading import check_chunk
from migrate.store.snapshots import Snapshot
from migrate.store.store import Store

log = logging.getLogger(__name__)

_DESCRIBING = ("image", "host")  # kinds of records that a snapshot's description takes from
_UPLOADS = 2  # packs that are on their way at once
_PACKS_IN_HAND = 2  # closed packs in memory: those, and the open one, bound what a writer needs


class Progress(Protocol):
    """Told ``(stage, done, total)`` in bytes."""

    def __call__(self, stage: str, done: int, total: int, /) -> None: ...


class SnapshotWriter(ExternalImageWriter):
    """An ImageWriter whose image becomes a snapshot of a store.

    It is finished as every ImageWriter is; `publish` then makes the snapshot appear. Use
    `writing`, which holds the lock that this needs.

    Attributes:
        new_chunks, new_bytes: What the store did not have before, stored bytes.
    """

    def __init__(self, store: Store, lock: Lock, *, level: int = 1, workers: int = 2) -> None:
        self._store = store
        self._lock = lock
        self._known = store.load_index()
        self._relied_on: dict[bytes, PackInfo] = {}
        self._written: set[bytes] = set()
        self._sections: list[tuple[PackInfo, bytes]] = []  # with the pack's section, packed
        self._uploads: list[Future[tuple[PackInfo, bytes]]] = []
        self._room = threading.Semaphore(_PACKS_IN_HAND)
        self._pool: ThreadPoolExecutor | None = None
        self._open = PackBuilder(store.seal)
        self._image = io.BytesIO()
        self._image_record: Image | None = None
        self._host: Host | None = None
        self._summary: ImageSummary | None = None
        self.new_chunks = self.new_bytes = 0
        super().__init__(self._image, self, level=level, workers=workers)

    # What the pipeline and the image writer ask for (formats.external.ChunkKeeper)

    def name_of(self, plain: memoryview, /) -> bytes:
        """The name of a chunk in this store."""
        return self._store.seal.name_of(plain)

    def has(self, chunk_id: bytes, /) -> bool:
        """Whether the store has a chunk, or this writer has seen it before."""
        return chunk_id in self._written or self._known.has(chunk_id)

    def put(self, piece: Piece, /) -> None:
        """Keep a chunk, or note which pack has it."""
        if piece.chunk_id in self._written:
            return
        if piece.known:
            where = self._known.find(piece.chunk_id)
            assert where is not None
            self._relied_on[where.pack.pack_id] = where.pack
            return
        self._written.add(piece.chunk_id)
        self.new_bytes += self._open.add(
            piece.chunk_id, piece.body, piece.plain_size, compressed=piece.compressed
        )
        self.new_chunks += 1
        if self._open.full:
            self._lock.refresh()
            self._send()

    def add_raw_record(self, kind: str, fields: dict[str, Any]) -> None:
        if kind in _DESCRIBING:
            rec = unpack_record(kind, fields)
            if isinstance(rec, Image):
                self._image_record = rec
            elif isinstance(rec, Host):
                self._host = rec
        super().add_raw_record(kind, fields)

    def finish(self) -> ImageSummary:
        self._summary = super().finish()
        if len(self._open):
            self._send()
        return self._summary

    # The end

    def settle(self, *, verify: bool = False) -> None:
        """Wait until every pack is in the store.

        Args:
            verify: Also read the new packs back and compare every chunk with its name.

        Raises:
            StoreError, ImageError: One could not be written, or did not come back as it was.
        """
        for upload in self._uploads:
            self._sections.append(upload.result())
        self._uploads.clear()
        if verify:
            for _, packed in self._sections:
                for info, entries in for_each_section(packed, name="a new pack"):
                    self._verify(info, entries)

    def publish(
        self,
        *,
        tags: tuple[str, ...] = (),
        frozen_ns: int = 0,
        sign: Callable[[Snapshot], Snapshot] = lambda snapshot: snapshot,
    ) -> Snapshot:
        """Make the snapshot appear, durably.

        Args:
            tags: Checked already.
            frozen_ns: How long the container stood still.
            sign: Gives it a signature (`migrate.store.signing`).

        Raises:
            StoreError: It has not appeared, or was taken back: ``lock-lost`` when a prune on
                another host could not know of us.
        """
        self.settle()
        summary, image = self._summary, self._image_record
        assert summary is not None and image is not None
        # A pack that has vanished since the index was read would make the snapshot worthless.
        self._store.require_packs(self._relied_on.values())
        self._store.write_index(packed for _, packed in self._sections)
        self._lock.refresh()
        raw = self._image.getvalue()
        snapshot = Snapshot(
            snapshot_id=os.urandom(ID_SIZE),
            container_id=image.container_id,
            created_ns=image.created_ns,
            hostname=self._host.hostname if self._host else "",
            tags=tuple(sorted(set(tags))),
            root=summary.root,
            image_size=len(raw),
            chunks=summary.chunks,
            plain_bytes=summary.plain_bytes,
            new_chunks=self.new_chunks,
            new_bytes=self.new_bytes,
            frozen_ns=frozen_ns,
            wherry_version=image.wherry_version,
        )
        snapshot = sign(snapshot)
        self._store.write_snapshot(snapshot, raw)
        try:
            # A pruner that has taken our lock away may have looked at the snapshots before this
            # one was there. One that does so from now on sees it.
            self._lock.require_held()
        except BaseException:
            self._store.backend.remove(name_of(Kind.SNAPSHOT, snapshot.snapshot_id))
            raise
        self._link(snapshot)
        return snapshot

    def _link(self, snapshot: Snapshot) -> None:
        """Where others may copy single objects: let the snapshot take along what a restore needs.

        The snapshot is there without it, so a failure is only a warning.
        """
        backend = self._store.backend
        if not isinstance(backend, Linking):
            return
        packs = {info.pack_id for info, _ in self._sections} | self._relied_on.keys()
        others = [name_of(Kind.PACK, pack_id) for pack_id in sorted(packs)]
        for kind in (Kind.KEY, Kind.INDEX):
            others += [name_of(kind, object_id) for object_id in self._store.sizes(kind)]
        try:
            backend.link(name_of(Kind.SNAPSHOT, snapshot.snapshot_id), [CONFIG_NAME, *others])
        except StoreError as exc:
            log.warning("snapshot %s cannot be copied by itself: %s", snapshot.short_id, exc)

    def close(self) -> None:
        """Stop all threads. Idempotent."""
        self.abort()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _send(self) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_UPLOADS, "wherry-packs")
        for upload in self._uploads:
            if upload.done() and upload.exception() is not None:
                upload.result()
        full, self._open = self._open, PackBuilder(self._store.seal)
        self._room.acquire()
        self._uploads.append(self._pool.submit(self._upload, full))

    def _upload(self, builder: PackBuilder) -> tuple[PackInfo, bytes]:
        try:
            info, entries = builder.write(self._store.backend)
            return info, pack_section(info, entries)  # a fifth of the memory
        finally:
            self._room.release()

    def _verify(self, info: PackInfo, entries: list[Entry]) -> None:
        seal = self._store.seal
        found, table, bodies = read_pack(self._store.backend, seal, info.pack_id, info.size)
        assert (found, table) == (info, entries)
        for entry in entries:
            where = Location(info, *entry[1:])
            stored = bodies[entry.offset : entry.offset + entry.stored_size]
            body = body_of(seal, where, stored)
            check_chunk(seal, entry.chunk_id, entry.plain_size, body)


@contextlib.contextmanager
def writing(store: Store, *, level: int = 1, workers: int = 2) -> Iterator[SnapshotWriter]:
    """A writer of one snapshot, with the lock that keeps pruners from what it relies on."""
    with Lock(store.backend, store.seal, WRITE) as lock:
        # The lock comes first: a pruner that does not see it has condemned its packs before we
        # read the index.
        writer = SnapshotWriter(store, lock, level=level, workers=workers)
        try:
            yield writer
        finally:
            writer.close()
