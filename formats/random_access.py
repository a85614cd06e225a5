"""Reading an image's chunks in any order, from a file that can seek.

The records come first, as ever. Then the index stands in for the chunk frames: their heads and
metas are in it as they stand in the frames, so the root digest over all of them can be checked
without the contents, and every body against its own digest when it is read.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Iterator

from formats.chunks import Chunk, ChunkMeta, unpack_meta
from formats.errors import ImageCorruptError, ImageError
from formats.frames import (
    FIRST_SKIPPABLE,
    Frame,
    FrameReader,
    FrameType,
    Head,
    check_body,
    unpack_head,
)
from formats.index import ImageIndex
from formats.limits import CHUNK_SIZE
from formats.manifest import ImageSummary
from formats.reader import ImageReader
from formats.sealed_file import SealedFile
from formats.signature import SIGNATURE_FRAME

Pread = Callable[[memoryview, int], int]


def _pread_file(fd: int, view: memoryview, position: int) -> int:
    return os.preadv(fd, [view], position)


class StoredChunk(Chunk):
    """A chunk whose body is still in the file; it is read when it is unpacked.

    Args:
        head, meta: Of its frame.
        pread: Fills a view with the image's bytes from a position on; the count, 0 at the end.
        position: File offset of the body.
        name: What messages call the image.
    """

    __slots__ = ("_name", "_position", "_pread")

    def __init__(self, head: Head, meta: ChunkMeta, pread: Pread, position: int, name: str) -> None:
        super().__init__(head, meta, b"")
        self._pread, self._position, self._name = pread, position, name

    def unpack(self) -> bytes | bytearray | memoryview:
        return self.unpack_into(bytearray(self.plain_size))

    def unpack_into(self, buffer: bytearray | memoryview) -> memoryview:
        try:
            return self._load().unpack_into(buffer)
        except ImageError as exc:
            raise type(exc)(f"{self._name}: {exc}", reason=exc.reason) from exc.__cause__

    def check(self) -> None:
        self._load().check()

    def _load(self) -> Chunk:
        body = memoryview(bytearray(self.stored_size))
        done = 0
        while done < len(body):
            try:
                count = self._pread(body[done:], self._position + done)
            except OSError as exc:
                raise ImageError(
                    f"byte {self._position + done} cannot be read: {exc.strerror}",
                    reason="image-unreadable",
                ) from exc
            if not count:
                raise ImageCorruptError(
                    f"the image ends at byte {self._position + done}, in the middle; copy it again",
                    reason="image-truncated",
                )
            done += count
        return Chunk(self._head, ChunkMeta(*self._meta), body)

    @property
    def _meta(self) -> tuple[int, int, tuple[tuple[int, int], ...], bytes]:
        return self.object_id, self.offset, self.runs, self.chunk_id


class RandomAccessReader(ImageReader):
    """As ImageReader; contents are read when they are wanted, and in any order.

    `finish` compares everything but the bodies of chunks that nobody has unpacked.

    Args:
        source: A file, at its start. It must stay open as long as chunks are unpacked.
        name: What messages call the image; the file's own name by default.
    """

    def __init__(self, source: io.FileIO, *, name: str | None = None) -> None:
        super().__init__(source, name=name)
        self._file = source
        self._pread: Pread = functools.partial(_pread_file, source.fileno())
        if isinstance(source, SealedFile):
            self._pread = source.pread
        self._left: Iterator[Chunk] = self._from_index()

    def references(self) -> Iterator[Chunk]:
        return self._left

    def chunks(self) -> Iterator[Chunk]:
        return self._left

    def for_each_chunk(
        self,
        consume: Callable[[Chunk, memoryview], None],
        *,
        workers: int = 2,
        check_ids: bool = False,
    ) -> None:
        from concurrent.futures import ThreadPoolExecutor

        def handle(chunk: Chunk) -> None:
            plain = chunk.unpack_into(bytearray(CHUNK_SIZE))
            if check_ids:
                chunk.check_id(plain)
            consume(chunk, plain)

        with ThreadPoolExecutor(max(1, workers)) as pool:
            for _ in pool.map(handle, self._left):
                pass

    def finish(self) -> ImageSummary:
        for _ in self._left:
            pass
        with self._named():
            return self._read_end()

    def _from_index(self) -> Iterator[Chunk]:
        for _ in self.for_each_raw_record():
            pass  # nobody asked for the rest of them; they are checked all the same
        with self._named():
            frame = self._next_of(FrameType.CHUNK)
            found = [] if frame is None else self._read_index(frame)
        yield from found

    def _read_index(self, frame: Frame) -> list[Chunk]:
        """All chunks, of which the first frame's head was read; afterwards the index comes next."""
        index = ImageIndex(self._file)
        entries = index.for_each_raw_entry()
        if next(entries, None) != (frame.position, frame.raw):
            raise ImageCorruptError("the index does not match the chunks")
        found: list[Chunk] = [self._take(frame)]
        at = frame.position + len(frame.raw) + frame.head.stored_size
        sequence = frame.head.sequence + 1
        for position, raw in entries:
            if position != at:
                sequence = self._skip(at, position, sequence)
            head, meta = unpack_head(raw)
            if head.type != FrameType.CHUNK or head.sequence != sequence:
                raise ImageCorruptError(f"the index names frame {head.sequence} out of order")
            self._root.add(raw)
            found.append(self._take(Frame(position, head, meta, raw)))
            at = position + len(raw) + head.stored_size
            sequence += 1
        end = index.summary.index_position
        if at != end:
            sequence = self._skip(at, end, sequence)
        self._file.seek(end)
        self._frames = FrameReader(self._file, end, sequence=sequence)
        self._ahead = self._next_known()
        return found

    def _take(self, frame: Frame) -> StoredChunk:
        self._seen.add_chunk(frame)
        meta = unpack_meta(frame.meta, frame.head.plain_size)
        position = frame.position + len(frame.raw)
        return StoredChunk(frame.head, meta, self._pread, position, self.name)

    def _skip(self, at: int, end: int, sequence: int) -> int:
        """Check frames that this version need not know, between others; the next number."""
        if at > end:
            raise ImageCorruptError("the index names chunks out of order")
        self._file.seek(at)
        self._frames = frames = FrameReader(self._file, at, sequence=sequence)
        while frames.position < end:
            frame = frames.next_frame()
            if frame.head.type == SIGNATURE_FRAME:
                self._read_signature(frame)
                continue
            if frame.head.type < FIRST_SKIPPABLE:
                raise ImageCorruptError("the index does not name all chunks")
            self._root.add(frame.raw)
            check_body(frame.head, frames.read_body(frame))
        if frames.position != end:
            raise ImageCorruptError("the index does not match the chunks")
        return frames.next_sequence
