"""The contents of an image in the order of the stream, given to whom they belong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator

from formats.statefile import Chunk, ImageReader
from runtime.errors import RestoreError

_THREADS = 2
_ALONE = 128  # chunks


class ChunkStream:
    """The chunks of an image, each taken once.

    Args:
        reader: The image; its records have been read.

    Attributes:
        early_bytes: What `early` has given out.
    """

    def __init__(self, reader: ImageReader) -> None:
        self._reader = reader
        self._chunks: Iterator[Chunk] = reader.chunks()
        self._ahead: Chunk | None = None
        self._stashed: dict[int, list[Chunk]] = {}
        self.early_bytes = 0

    def of(self, objects: Collection[int]) -> Iterator[Chunk]:
        """The next chunks, as long as they belong to *objects*."""
        while (chunk := self._next()) is not None:
            if chunk.object_id not in objects:
                self._ahead = chunk
                return
            yield chunk

    def early(self, object_id: int, others: Collection[int]) -> Iterator[Chunk]:
        """The chunks of memory that a process must have before it makes children.

        They come in about the order of births; what comes before its time waits in our memory.

        Args:
            object_id: Of that memory.
            others: All memory of this sort.
        """
        yield from self._stashed.pop(object_id, ())
        found = False
        while (chunk := self._next()) is not None:
            if chunk.object_id == object_id:
                found = True
                self.early_bytes += sum(length for _, length in chunk.runs)
                yield chunk
            elif chunk.object_id in others and not found:
                self._stashed.setdefault(chunk.object_id, []).append(chunk)
            else:
                self._ahead = chunk
                return

    def rest_but(
        self, put: Callable[[Chunk, memoryview], None], may_wait: Callable[[Chunk], bool]
    ) -> list[Chunk]:
        """As `rest`, without the chunks that may wait.

        Returns:
            These; their bytes come when they are unpacked.
        """
        from concurrent.futures import ThreadPoolExecutor

        ahead, self._ahead = self._ahead, None
        waiting: list[Chunk] = []
        wanted: list[Chunk] = []
        for chunk in itertools.chain([ahead] if ahead else [], self._reader.references()):
            (waiting if may_wait(chunk) else wanted).append(chunk)
        with ThreadPoolExecutor(_THREADS, "wherry-fill") as pool:
            for _ in pool.map(lambda chunk: put(chunk, plain_of(chunk)), wanted):
                pass
        self._end()
        return waiting

    def rest(self, put: Callable[[Chunk, memoryview], None]) -> None:
        """Hand on all that is left to the end of the image, in several threads if it is much.

        Args:
            put: Called with each chunk and its plain bytes.

        Raises:
            RestoreError: Something was there before its time, and nobody took it.
            ImageError: The image is damaged.
        """
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            put(ahead, plain_of(ahead))
        # For a few, as a live migration sends them at its end, threads take longer than the work.
        for chunk in itertools.islice(self._chunks, _ALONE):
            put(chunk, plain_of(chunk))
        self._reader.for_each_chunk(put)
        self._end()

    def _end(self) -> None:
        self._reader.finish()
        if self._stashed:
            raise RestoreError(
                f"no process takes the memory of object {min(self._stashed)}",
                reason="image-inconsistent",
            )

    def _next(self) -> Chunk | None:
        chunk, self._ahead = self._ahead, None
        return chunk or next(self._chunks, None)


def plain_of(chunk: Chunk) -> memoryview:
    """The plain bytes, writable: that is what system calls want."""
    plain = chunk.unpack_into(bytearray(chunk.plain_size))
    return memoryview(bytearray(plain)) if plain.readonly else plain
