"""Writing an image, in order: header, records, chunks, index, end. A pipe will do as the sink."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from formats import wire
from formats.adaptive import AdaptiveLevel
from formats.chunks import ChunkMeta, pack_meta, runs_problem
from formats.compression import Compressor
from formats.errors import ImageWriteError
from formats.frames import FLAG_ZSTD, FrameType, Head, digest_of, pack_head
from formats.header import SIGNATURE, Header, pack_header
from formats.limits import (
    INT_MAX,
    MAX_BLOCK_SIZE,
    MAX_RECORDS,
    MAX_RECORDS_RATIO,
    MAX_RECORDS_SIZE,
    UNBOUNDED_RATIO_SIZE,
)
from formats.manifest import (
    END_SIZE,
    INDEX_BLOCK_SIZE,
    ImageSummary,
    RootDigest,
    pack_end,
    pack_entry,
    unpack_end,
)
from formats.pipeline import Job, Pipeline
from formats.records.codec import Record, kind_of, pack_record
from formats.signature import SIGNATURE_FRAME

_RECORDS_BLOCK_SIZE = 1 << 20  # records are collected up to about this size before compression
_JOBS_PER_WORKER = 4  # enough that no worker waits while the caller writes or scans


class Sink(Protocol):
    """Where an image goes. It is only called from the thread that calls the writer."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int | None:
        """Write some or all of *data*; the count written, or None for all of it."""


class ImageWriter:
    """Writes one image in stream order and never seeks.

    Args:
        sink: Where the bytes go. Its errors rise from the method that wrote.
        level: zstd level, 1 to 19.
        workers: Threads that fill, hash and compress; 0 does it in the caller's thread. They
            start with the first chunk and are gone after `finish` or `abort`.
        sign: Gives the public key and the signature of a digest (`formats.signature`).
        adaptive: Chooses the chunks' level while they go, instead of *level*.

    Used as a context manager, it aborts unless it was finished.
    """

    _incompatible = 0  # feature flags

    def __init__(
        self,
        sink: Sink,
        *,
        level: int = 1,
        workers: int = 2,
        sign: Callable[[bytes], bytes] | None = None,
        adaptive: AdaptiveLevel | None = None,
    ) -> None:
        self._sign = sign
        self._adaptive = adaptive
        self._write = sink.write
        self._compressor = Compressor(level)
        self._pipeline = self._make_pipeline(level, workers, max(1, workers * _JOBS_PER_WORKER))
        self._position = 0
        self._sequence = 0
        self._block = bytearray()
        self._index = _IndexBlocks(self._compressor)
        self._record_frames = self._records = self._records_size = 0
        self._chunks = self._plain_bytes = self._stored_bytes = 0
        self._closed = False
        compatible = SIGNATURE if sign is not None else 0
        header = pack_header(Header(compatible=compatible, incompatible=self._incompatible))
        self._root = RootDigest(header)
        self._put(header)

    def add_record(self, rec: Record) -> None:
        """Add a record. All records come before the first chunk.

        Raises:
            TypeError: The record does not fit its class's annotations: a bug.
            ValueError: After the first chunk.
            ImageWriteError: More records than an image can hold.
        """
        self.add_raw_record(kind_of(rec), pack_record(rec))

    def add_raw_record(self, kind: str, fields: dict[str, Any]) -> None:
        """As `add_record`, for one of a kind that we need not know: it was read from an image."""
        self._require_open()
        if self._chunks or len(self._pipeline):
            raise ValueError("records come before the first chunk")
        packed = wire.pack([kind, fields])
        self._records += 1
        self._records_size += len(packed)
        if len(packed) > MAX_BLOCK_SIZE:
            raise ImageWriteError(
                f"a record {kind!r} has {len(packed)} bytes, at most {MAX_BLOCK_SIZE} fit",
                reason="record-too-large",
            )
        if self._records > MAX_RECORDS or self._records_size > MAX_RECORDS_SIZE:
            raise ImageWriteError(
                f"{self._records} records of {self._records_size} bytes, an image holds at most "
                f"{MAX_RECORDS} of {MAX_RECORDS_SIZE} bytes",
                reason="too-many-records",
            )
        if len(self._block) + len(packed) > _RECORDS_BLOCK_SIZE:
            self._flush_records()
        self._block += packed

    def add_chunk(
        self,
        object_id: int,
        offset: int,
        runs: Sequence[tuple[int, int]],
        fill: Callable[[memoryview], None],
    ) -> None:
        """Add a piece of an object's contents.

        Args:
            object_id: Number of the object, as the records have it.
            offset: Start of the piece in the object's address space; it covers `CHUNK_SIZE` bytes.
            runs: Ascending (start, length) byte ranges within the piece, in the object's own
                address space. Together they are the chunk's plain bytes.
            fill: Writes exactly these bytes into the view it is given. Runs in a worker thread;
                what it raises is raised by a later call of this writer, which is then unusable.

        Blocks while too much is in flight.
        """
        self._require_open()
        problem = runs_problem(offset, runs)
        if problem is not None or not (0 <= object_id <= INT_MAX and 0 <= offset <= INT_MAX):
            raise ValueError(f"chunk {offset:#x} of object {object_id}: {problem}")
        self._flush_records()
        self._submit(Job(object_id, offset, tuple(runs), fill, self._piece_size()))

    def drain(self) -> None:
        """Write what is in flight: afterwards no `fill` of an earlier chunk runs any more."""
        self._require_open()
        with self._aborting():
            while len(self._pipeline):
                self._write_oldest()

    def finish(self) -> ImageSummary:
        """Write what is in flight, the index and the end; stop the threads.

        Returns:
            Counts, sizes and the root digest. The sink is the caller's to sync and close.
        """
        self._require_open()
        self._flush_records()
        with self._aborting():
            while len(self._pipeline):
                self._write_oldest()
        self.abort()
        if self._sign is not None:
            signature = self._sign(self._root.so_far())
            self._put_frame(SIGNATURE_FRAME, signature, len(signature), 0)
        index_position = self._position
        blocks = self._index.finish()
        for stored, plain_size, flags in blocks:
            self._put_frame(FrameType.INDEX, stored, plain_size, flags)
        return self._put_end(index_position, len(blocks))

    def abort(self) -> None:
        """Stop the threads and write nothing more. Idempotent; the sink is the caller's."""
        self._closed = True
        self._pipeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()

    # Chunks

    def _make_pipeline(self, level: int, workers: int, limit: int) -> Pipeline:
        return Pipeline(level=level, workers=workers, limit=limit, adaptive=self._adaptive)

    def _piece_size(self) -> int:
        """As `Job.piece_size`, for the next one."""
        return 0

    @contextlib.contextmanager
    def _aborting(self) -> Iterator[None]:
        """Leave no thread behind when the work inside fails."""
        try:
            yield
        except BaseException:
            self.abort()
            raise

    def _submit(self, job: Job) -> None:
        with self._aborting():
            if self._pipeline.full:
                self._write_oldest()
            for done in self._pipeline.for_each_ready():
                self._write_chunk(done)
            self._pipeline.submit(job)

    def _write_oldest(self) -> None:
        with self._pipeline.take() as job:
            self._write_chunk(job)

    def _write_chunk(self, job: Job) -> None:
        if self._adaptive is None:
            self._put_chunk(job)
            return
        began, before = time.monotonic_ns(), self._position
        self._put_chunk(job)
        self._adaptive.wrote(self._position - before, time.monotonic_ns() - began)

    def _put_chunk(self, job: Job) -> None:
        meta = pack_meta(ChunkMeta(job.object_id, job.offset, job.runs, job.chunk_id))
        position = self._position
        raw = self._put_frame(
            FrameType.CHUNK,
            job.body,
            job.plain_size,
            FLAG_ZSTD if job.compressed else 0,
            meta=meta,
            digest=job.digest,
        )
        self._index.add(pack_entry(position, raw))
        self._chunks += 1
        self._plain_bytes += job.plain_size
        self._stored_bytes += len(job.body)

    # Frames

    def _flush_records(self) -> None:
        if not self._block:
            return
        stored, flags = _compressed(self._compressor, self._block)
        swells = len(self._block) > MAX_RECORDS_RATIO * len(stored)
        if swells and self._records_size > UNBOUNDED_RATIO_SIZE:
            stored, flags = self._block, 0  # a reader takes it for what it could be
        self._put_frame(FrameType.RECORDS, stored, len(self._block), flags)
        self._record_frames += 1
        self._block = bytearray()

    def _put_end(self, index_position: int, index_frames: int) -> ImageSummary:
        counts = (
            index_position,
            index_frames,
            self._record_frames,
            self._records,
            self._chunks,
            self._plain_bytes,
            self._stored_bytes,
            self._position + END_SIZE,
        )
        meta = pack_end(counts, self._root)
        self._put_frame(FrameType.END, b"", 0, 0, meta=meta)
        return unpack_end(meta)

    def _put_frame(
        self,
        kind: int,
        stored: bytes | bytearray | memoryview,
        plain_size: int,
        flags: int,
        *,
        meta: bytes = b"",
        digest: bytes | None = None,
    ) -> bytes:
        head = Head(
            kind,
            flags,
            self._sequence,
            len(meta),
            len(stored),
            plain_size,
            digest_of(stored) if digest is None else digest,
        )
        raw = pack_head(head, meta)
        self._sequence += 1
        self._root.add(raw)
        self._put(raw)
        self._put(stored)
        return raw

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        self._position += len(data)
        written = self._write(data) if data else None
        if written is None or written == len(data):
            return
        rest = memoryview(data)[written:]
        while rest:
            written = self._write(rest)
            rest = rest[len(rest) if written is None else written :]

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError("the image writer was finished or aborted")


class _IndexBlocks:
    """The index while it grows: full blocks are kept compressed."""

    def __init__(self, compressor: Compressor) -> None:
        self._compressor = compressor
        self._open = bytearray()
        self._blocks: list[tuple[bytes | bytearray, int, int]] = []

    def add(self, entry: bytes) -> None:
        self._open += entry
        if len(self._open) >= INDEX_BLOCK_SIZE:
            self._close()

    def finish(self) -> list[tuple[bytes | bytearray, int, int]]:
        """The blocks as (stored bytes, plain size, frame flags)."""
        self._close()
        return self._blocks

    def _close(self) -> None:
        if self._open:
            stored, flags = _compressed(self._compressor, self._open)
            self._blocks.append((stored, len(self._open), flags))
            self._open = bytearray()


def _compressed(compressor: Compressor, plain: bytearray) -> tuple[bytes | bytearray, int]:
    stored = compressor.compress(plain)
    return (plain, 0) if stored is None else (stored, FLAG_ZSTD)
