"""Threads that fill, hash and compress chunks while their caller goes on.

Filling (a system call), BLAKE3 and zstd all release the GIL, so threads run truly side by side. The
caller submits jobs and takes them back in the same order; it alone writes to the sink, so the sink
needs no lock and its errors rise where they belong.

Each job borrows a buffer of one chunk from a pool and keeps it only when its bytes are stored as
they are. At most *limit* jobs exist at once: that bounds the memory, whatever the workload's size.

The threads start with the first job and end in `close`. None outlives it, so the process may fork
afterwards.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from formats.adaptive import AdaptiveLevel, Trial
from formats.compression import Compressor
from formats.frames import digest_of
from formats.limits import CHUNK_SIZE


class Piece:
    """A part of a job that is a chunk of its own.

    Attributes: as those of `Job`.
    """

    __slots__ = ("body", "chunk_id", "compressed", "known", "offset", "plain_size", "runs")

    def __init__(self, offset: int, runs: list[tuple[int, int]]) -> None:
        self.offset = offset
        self.runs = runs
        self.plain_size = sum([length for _, length in runs])
        self.chunk_id = b""
        self.body: bytes | memoryview = b""
        self.compressed = False
        self.known = False


class Job:
    """One chunk on its way.

    Attributes:
        object_id, offset, runs: Where its bytes belong, as in `formats.chunks.ChunkMeta`.
        plain_size: Bytes that *fill* provides: the sum of the runs' lengths.
        body: The bytes to store, once done.
        compressed: Whether *body* is a zstd frame.
        chunk_id: BLAKE3 of the plain bytes.
        digest: BLAKE3 of *body*, for those who store it in a frame.
        known: Whether the chunk is stored already; then there is no *body*.
        piece_size: Bytes of address space that a chunk of it may cover; 0 when it is one chunk.
        pieces: Its chunks, once done; then name and body are theirs and not the job's.
        ahead: Whether it does not belong to the image yet (`formats.external`).
    """

    __slots__ = (
        "_buffer",
        "_done",
        "_error",
        "ahead",
        "body",
        "chunk_id",
        "compressed",
        "digest",
        "fill",
        "known",
        "object_id",
        "offset",
        "piece_size",
        "pieces",
        "plain_size",
        "runs",
    )

    def __init__(
        self,
        object_id: int,
        offset: int,
        runs: tuple[tuple[int, int], ...],
        fill: Callable[[memoryview], None],
        piece_size: int = 0,
        *,
        ahead: bool = False,
    ) -> None:
        self.piece_size = piece_size
        self.ahead = ahead
        self.pieces: list[Piece] = []
        self.object_id = object_id
        self.offset = offset
        self.runs = runs
        self.plain_size = sum([length for _, length in runs])
        self.fill = fill
        self.body: bytes | memoryview = b""
        self.compressed = False
        self.known = False
        self.chunk_id = b""
        self.digest = b""
        self._buffer: bytearray | None = None
        self._error: BaseException | None = None
        self._done = threading.Lock()  # held until done: the cheapest thing to wait on
        self._done.acquire()

    @property
    def done(self) -> bool:
        return not self._done.locked()


class Pipeline:
    """A few threads and the jobs they have in hand.

    Args:
        level: zstd level.
        workers: Threads; with 0 a job is done within `submit`.
        limit: Jobs that may exist at once, at least one.
        name_of: Gives plain bytes their name; called in the threads.
        has: Tells of a name that its bytes are stored already, so that nobody needs to compress
            them; called in the threads. Without it every job gets a body and the body's digest.
        adaptive: Chooses the level from one job to the next, instead of *level*.
    """

    def __init__(
        self,
        *,
        level: int,
        workers: int,
        limit: int,
        name_of: Callable[[memoryview], bytes] = digest_of,
        has: Callable[[bytes], bool] | None = None,
        adaptive: AdaptiveLevel | None = None,
    ) -> None:
        self._adaptive = adaptive
        self._name_of = name_of
        self._has = has
        self._level = level
        self._workers = workers
        self._limit = max(1, limit)
        self._threads: list[threading.Thread] = []
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: deque[Job] = deque()
        self._buffers: deque[bytearray] = deque()
        self._closing = False
        self._inline = self._compressor(None) if not workers else None

    @property
    def full(self) -> bool:
        """True when a job must be taken back before the next is submitted."""
        return len(self._jobs) >= self._limit

    def submit(self, job: Job) -> None:
        """Start a job. The caller has made room first (`full`, `take`)."""
        self._jobs.append(job)
        if self._inline is not None:
            self._inline = self._compressor(self._inline)
            self._run(job, self._inline)
            return
        if not self._threads:
            self._start()
        self._queue.put(job)

    def for_each_ready(self) -> Iterator[Job]:
        """Take back the jobs at the front of the line that are done, without waiting."""
        while self._jobs and self._jobs[0].done:
            with self.take() as job:
                yield job

    @contextlib.contextmanager
    def take(self) -> Iterator[Job]:
        """Wait for the oldest job and take it back; its body is valid inside the ``with``.

        Raises:
            Whatever the job's fill raised.
        """
        job = self._jobs.popleft()
        job._done.acquire()
        if job._error is not None:
            raise job._error
        yield job
        job.body = b""
        job.pieces.clear()
        if job._buffer is not None:
            self._buffers.append(job._buffer)

    def __len__(self) -> int:
        return len(self._jobs)

    def close(self) -> None:
        """Drop the jobs that nobody took back, and end the threads. Idempotent."""
        self._closing = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._jobs.clear()
        self._buffers.clear()

    def _start(self) -> None:
        for number in range(self._workers):
            # Daemons only so that a forgotten `close` cannot hang the interpreter's exit.
            thread = threading.Thread(
                target=self._work, name=f"wherry-chunks-{number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def _work(self) -> None:
        compressor = self._compressor(None)
        while (job := self._queue.get()) is not None:
            if not self._closing:
                compressor = self._compressor(compressor)
                self._run(job, compressor)

    def _compressor(self, before: Compressor | None) -> Compressor:
        """The one for the next job; *before* as long as the level stays."""
        level = self._level if self._adaptive is None else self._adaptive.level
        return before if before is not None and before.level == level else Compressor(level)

    def _compress(self, compressor: Compressor, plain: memoryview) -> bytes | None:
        if self._adaptive is None:
            return compressor.compress(plain)
        # Processor time: what others do on a busy machine does not count.
        began = time.thread_time_ns()
        packed = compressor.compress(plain)
        busy_ns = time.thread_time_ns() - began
        stored_size = len(plain) if packed is None else len(packed)
        self._adaptive.compressed(compressor.level, len(plain), stored_size, busy_ns)
        level = self._adaptive.trial_level()
        if level is not None:
            self._try(level, plain, stored_size, self._adaptive)
        return packed

    def _try(
        self, level: int, plain: memoryview, stored_size: int, adaptive: AdaptiveLevel
    ) -> None:
        """Compress once more at another level, to know what that costs and gains."""
        compressor = Compressor(level)
        began = time.thread_time_ns()
        packed = compressor.compress(plain)
        busy_ns = time.thread_time_ns() - began
        packed_size = len(plain) if packed is None else len(packed)
        adaptive.tried(Trial(len(plain), packed_size, stored_size, busy_ns))

    def _run(self, job: Job, compressor: Compressor) -> None:
        try:
            buffer = self._borrow()
            plain = memoryview(buffer)[: job.plain_size]
            job.fill(plain)
            if job.piece_size:
                self._run_pieces(job, buffer, compressor)
                return
            job.chunk_id = self._name_of(plain)
            if self._has is not None and self._has(job.chunk_id):
                job.known = True
                self._buffers.append(buffer)
                return
            packed = self._compress(compressor, plain)
            if packed is None:
                job.body, job.digest, job._buffer = plain, job.chunk_id, buffer
            else:
                job.body, job.compressed = packed, True
                if self._has is None:
                    job.digest = digest_of(packed)
                self._buffers.append(buffer)
        except BaseException as exc:  # it is raised again in the caller's thread, by take()
            job._error = exc
        finally:
            job._done.release()

    def _run_pieces(self, job: Job, buffer: bytearray, compressor: Compressor) -> None:
        plain = memoryview(buffer)[: job.plain_size]
        assert self._has is not None
        start = 0
        for piece in cut_runs(job.offset, job.runs, job.piece_size):
            end = start + piece.plain_size
            part = plain[start:end]
            start = end
            piece.chunk_id = self._name_of(part)
            if self._has(piece.chunk_id):
                piece.known = True
            else:
                packed = compressor.compress(part)
                piece.compressed = packed is not None
                piece.body = part if packed is None else packed
                if packed is None:
                    job._buffer = buffer
            job.pieces.append(piece)
        if job._buffer is None:
            self._buffers.append(buffer)

    def _borrow(self) -> bytearray:
        try:
            return self._buffers.popleft()
        except IndexError:
            return bytearray(CHUNK_SIZE)


def cut_runs(offset: int, runs: tuple[tuple[int, int], ...], size: int) -> list[Piece]:
    """Cut a chunk at multiples of *size* bytes from *offset* on.

    At addresses, and not where so many bytes are full: a page that comes or goes changes its own
    piece and none behind it.
    """
    found: list[tuple[int, list[tuple[int, int]]]] = []
    current = -1
    for run_start, length in runs:
        start, end = run_start, run_start + length
        while start < end:
            number = (start - offset) // size
            if number != current:
                current = number
                found.append((offset + number * size, []))
            stop = min(end, offset + (number + 1) * size)
            found[-1][1].append((start, stop - start))
            start = stop
    return [Piece(at, part) for at, part in found]
