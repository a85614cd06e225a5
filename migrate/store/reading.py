"""Reading snapshots: chunks come from packs, several ahead of whoever wants them."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from formats.compression import decompress
from formats.errors import ImageCorruptError
from formats.external import Body, ExternalImageReader
from migrate.errors import StoreError
from migrate.store.index import ChunkMap, Location
from migrate.store.objects import Kind, name_of
from migrate.store.packs import body_of, read_body
from migrate.store.sealing import Bytes, Seal
from migrate.store.snapshots import Snapshot
from migrate.store.store import Store

_READS = 4  # at once
_SPAN_SIZE = 8 << 20  # bytes that one read fetches at most
_GAP = 64 << 10  # bytes between two chunks that are rather read than skipped
_THREADS_END_WITHIN_S = 1.0
_KEPT = 8192  # chunks that were fetched ahead and not asked for yet


class _Span(NamedTuple):
    """Bytes of one pack that one read fetches."""

    start: int
    data: Future[bytes]


class StoreChunks:
    """The chunks of a store, for an `ExternalImageReader` (formats.external.ChunkSource).

    Nothing is connected and no thread runs before the first chunk is wanted, so a process may
    make it, fork, and use it on one side.

    Args:
        store: Where from.
        chunks: Its index; loaded anew when a pack is no longer where that says.
    """

    def __init__(self, store: Store, chunks: ChunkMap) -> None:
        self._store = store
        self._chunks = chunks
        self._ahead: dict[bytes, tuple[Location, _Span]] = {}
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def name_of(self, plain: Bytes, /) -> bytes:
        """The name of a chunk in this store."""
        return self._store.seal.name_of(plain)

    def expect(self, chunk_ids: Sequence[bytes], /, *, background: bool) -> None:
        """Begin to fetch these, or fetch them now."""
        wanted: dict[bytes, Location] = {}
        for chunk_id in chunk_ids:
            where = self._chunks.find(chunk_id)
            if where is not None:
                wanted.setdefault(chunk_id, where)
        order = sorted(wanted.items(), key=lambda item: (item[1].pack.pack_id, item[1].offset))
        with self._lock:
            group: list[tuple[bytes, Location]] = []
            for item in order:
                if group and not _fits(group, item[1]):
                    self._fetch_span(group, background)
                    group = []
                group.append(item)
            if group:
                self._fetch_span(group, background)
            while len(self._ahead) > _KEPT:
                del self._ahead[next(iter(self._ahead))]  # fetched again should it be wanted

    def fetch(self, chunk_id: bytes, /) -> Body:
        """A chunk's bytes.

        Raises:
            StoreError: Reason ``chunk-missing``, or what the storage has to say.
            ImageCorruptError: The bytes are not those that were sealed there.
        """
        with self._lock:
            found = self._ahead.pop(chunk_id, None)
        if found is not None:
            where, span = found
            try:
                data = span.data.result()
            except StoreError as exc:
                if exc.reason != "object-missing":
                    raise
            else:
                at = where.offset - span.start
                stored = memoryview(data)[at : at + where.stored_size]
                return body_of(self._store.seal, where, stored)
        try:
            return self._fetch_alone(chunk_id)
        except StoreError as exc:
            if exc.reason not in ("object-missing", "chunk-missing"):
                raise
        # A prune has moved it to another pack since we read the index.
        self._chunks = self._store.load_index()
        return self._fetch_alone(chunk_id)

    def stored_size(self, chunk_id: bytes) -> int:
        """The bytes that a chunk takes in the store; 0 for one that is missing."""
        where = self._chunks.find(chunk_id)
        return where.stored_size if where is not None else 0

    def settle(self) -> None:
        """Stop the threads and disconnect; both come back when they are needed."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._store.disconnect()
        _wait_for_threads()

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        self.settle()
        self._ahead.clear()

    def _fetch_alone(self, chunk_id: bytes) -> Body:
        where = self._chunks.find(chunk_id)
        if where is None:
            raise StoreError(
                f"{self._store.url}: chunk {chunk_id.hex()[:16]}… is missing; run wherry store "
                "check",
                reason="chunk-missing",
            )
        return read_body(self._store.backend, self._store.seal, where)

    def _fetch_span(self, group: list[tuple[bytes, Location]], background: bool) -> None:
        """Caller holds the lock."""
        first, last = group[0][1], group[-1][1]
        name = name_of(Kind.PACK, first.pack.pack_id)
        length = last.offset + last.stored_size - first.offset
        get = self._store.backend.get  # connects once, not in each thread
        place = (name, first.pack.bodies_at + first.offset, length)
        if background:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_READS, "wherry-fetch")
            data = self._pool.submit(get, *place)
        else:
            data = Future()
            try:
                data.set_result(get(*place))
            except StoreError as exc:
                data.set_exception(exc)
        for chunk_id, where in group:
            self._ahead[chunk_id] = (where, _Span(first.offset, data))


def _wait_for_threads() -> None:
    """Wait until the kernel has seen the end of the threads that Python has seen the end of.

    Whoever enters a time namespace must be the only thread (EUSERS, man 2 setns), and a thread that
    has been joined still has a few instructions to go.
    """
    deadline = time.monotonic() + _THREADS_END_WITHIN_S
    while len(os.listdir("/proc/self/task")) > threading.active_count():
        if time.monotonic() > deadline:
            return  # a library's own threads, of which Python knows nothing
        time.sleep(0.0005)


def _fits(group: list[tuple[bytes, Location]], where: Location) -> bool:
    """Whether a chunk is fetched together with those before it."""
    first, last = group[0][1], group[-1][1]
    end = last.offset + last.stored_size
    return (
        where.pack.pack_id == first.pack.pack_id
        and where.offset - end <= _GAP
        and where.offset + where.stored_size - first.offset <= _SPAN_SIZE
    )


class SnapshotSource(NamedTuple):
    """A snapshot that can be read.

    Attributes:
        snapshot: What the list says of it.
        reader: Its image.
        chunks: Where its chunks come from; to be closed.
    """

    snapshot: Snapshot
    reader: ExternalImageReader
    chunks: StoreChunks


def open_snapshot(
    store: Store,
    snapshot_id: bytes,
    judge: Callable[[Snapshot, bytes], object] = lambda snapshot, image: None,
) -> SnapshotSource:
    """Read a snapshot's image; its chunks come later.

    Args:
        store: Where it is.
        snapshot_id: Which.
        judge: Gets the description and the image, and raises if they are not to be used.

    Raises:
        StoreError, ImageError: It is missing or damaged.
    """
    snapshot, raw = store.read_image(snapshot_id)
    judge(snapshot, raw)
    chunks = StoreChunks(store, store.load_index())
    name = f"snapshot {snapshot.short_id}"
    return SnapshotSource(snapshot, ExternalImageReader(io.BytesIO(raw), chunks, name=name), chunks)


def check_chunk(seal: Seal, chunk_id: bytes, plain_size: int, body: Body) -> None:
    """Decompress a chunk and compare it with its name; ImageCorruptError when it differs."""
    plain = decompress(body.data, plain_size) if body.compressed else body.data
    if len(plain) != plain_size or seal.name_of(plain) != chunk_id:
        raise ImageCorruptError(f"chunk {chunk_id.hex()[:16]}… is not what its name says")
