"""Contents from an image: a page source over chunks that are read when they are wanted."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from formats.statefile import CHUNK_SIZE, Chunk
from runtime.engine.lazy.source import Buffer, Range

_CACHED = 16  # unpacked chunks: relatives, and faults in a window, ask for the same again


class _Content:
    """What the chunks of one object hold, by address."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.pieces: list[tuple[int, Chunk, int]] = []  # end, chunk, where in its plain bytes
        self.runs: list[Range] = []

    def add(self, chunk: Chunk) -> None:
        at = 0
        for start, length in chunk.runs:
            self.starts.append(start)
            self.pieces.append((start + length, chunk, at))
            at += length
            if self.runs and self.runs[-1][1] == start:
                self.runs[-1] = (self.runs[-1][0], start + length)
            else:
                self.runs.append((start, start + length))


class ImageSource:
    """A `runtime.engine.lazy.source.PageSource` over an image that can be read in any order.

    Args:
        chunks: By object and ascending; their bytes come when they are unpacked.
        close: Called at the end.
        fds: What reading needs open.
    """

    def __init__(
        self,
        chunks: Iterable[Chunk],
        *,
        close: Callable[[], None] = lambda: None,
        fds: Iterable[int] = (),
    ) -> None:
        self._contents: dict[int, _Content] = {}
        for chunk in chunks:
            self._contents.setdefault(chunk.object_id, _Content()).add(chunk)
        self._close = close
        self._fds = tuple(fds)
        self._lock = threading.Lock()
        self._unpacked: OrderedDict[Chunk, memoryview] = OrderedDict()

    def objects(self) -> Sequence[int]:
        """The address spaces that have contents here."""
        return list(self._contents)

    def runs(self, object_id: int) -> Sequence[Range]:
        """See PageSource."""
        content = self._contents.get(object_id)
        return content.runs if content is not None else ()

    def read(self, object_id: int, start: int, length: int) -> Buffer:
        """See PageSource."""
        content = self._contents[object_id]
        index = bisect_right(content.starts, start) - 1
        found: list[memoryview] = []
        at, end = start, start + length
        while at < end:
            piece_end, chunk, position = content.pieces[index]
            first = position + at - content.starts[index]
            size = min(end, piece_end) - at
            if index < 0 or size <= 0:
                raise ValueError(f"object {object_id} has no content at {at:#x}")
            found.append(self._plain(chunk)[first : first + size])
            at += size
            index += 1
        return found[0] if len(found) == 1 else bytearray().join(found)

    def kept_fds(self) -> Iterable[int]:
        """See PageSource."""
        return self._fds

    def close(self) -> None:
        """See PageSource."""
        self._unpacked.clear()
        self._close()

    def _plain(self, chunk: Chunk) -> memoryview:
        with self._lock:
            plain = self._unpacked.get(chunk)
            if plain is not None:
                self._unpacked.move_to_end(chunk)
                return plain
        plain = chunk.unpack_into(bytearray(min(chunk.plain_size, CHUNK_SIZE)))
        with self._lock:
            self._unpacked[chunk] = plain
            while len(self._unpacked) > _CACHED:
                self._unpacked.popitem(last=False)
        return plain
