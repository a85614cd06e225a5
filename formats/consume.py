"""Threads that unpack chunks and hand them on, while one thread reads the stream in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from formats.chunks import Chunk
from formats.limits import CHUNK_SIZE

_BUFFERS_PER_WORKER = 3  # one being worked on, one ready, one being read


class Consumers:
    """A pool for `ImageReader.for_each_chunk`; a context manager.

    Memory is bounded by the buffers for stored bytes (`borrow` waits for one) and one buffer for
    plain bytes per thread.

    Args:
        consume: Called with each chunk and its plain bytes, in any thread.
        workers: Threads, at least one.
        check_ids: Also compare plain bytes with the chunk's name.
        wrap: Context manager around the reading of image bytes, to name the image in errors.
    """

    def __init__(
        self,
        consume: Callable[[Chunk, memoryview], None],
        *,
        workers: int,
        check_ids: bool,
        wrap: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._consume = consume
        self._check_ids = check_ids
        self._wrap = wrap
        self._count = max(1, workers)
        self._error: BaseException | None = None
        self._work: queue.SimpleQueue[tuple[Chunk, bytearray] | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        self._unmade = self._count * _BUFFERS_PER_WORKER
        self._threads: list[threading.Thread] = []

    def borrow(self) -> bytearray:
        """A buffer for one stored body; waits until one is free. Raises a thread's error."""
        self._raise_error()
        if self._unmade and self._free.empty():
            self._unmade -= 1
            return bytearray(CHUNK_SIZE)
        buffer = self._free.get()
        self._raise_error()
        return buffer

    def submit(self, chunk: Chunk, buffer: bytearray) -> None:
        """Hand over a chunk whose stored bytes are in *buffer*."""
        if len(self._threads) < self._count:
            self._start()
        self._work.put((chunk, buffer))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and self._error is None:
            self._error = error  # the threads stop consuming
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if error is None:
            self._raise_error()

    def _start(self) -> None:
        number = len(self._threads)
        # Daemons only so that an interrupted join cannot hang the interpreter's exit.
        thread = threading.Thread(target=self._run, name=f"wherry-unpack-{number}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self) -> None:
        plain = bytearray(CHUNK_SIZE)
        while (item := self._work.get()) is not None:
            chunk, buffer = item
            if self._error is None:
                try:
                    self._handle(chunk, plain)
                except BaseException as exc:  # raised again in the reading thread
                    self._error = self._error or exc
            del item, chunk
            self._free.put(buffer)

    def _handle(self, chunk: Chunk, buffer: bytearray) -> None:
        with self._wrap():
            plain = chunk.unpack_into(buffer)
            if self._check_ids:
                chunk.check_id(plain)
        self._consume(chunk, plain)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
