"""Images without contents: the chunks are somewhere else, in a store, under their names.

Such an image has the incompatible feature ``external-chunks``. Its records are those of a state
file. It has no chunk frames; the index frames, put together, are the metas of the chunks in stream
order (`formats.chunks`), msgpack values one after another. A chunk's plain size is the sum of its
runs; its name leads to its bytes.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from formats import wire
from formats.chunks import Chunk, ChunkMeta, pack_meta, unpack_meta_value
from formats.compression import decompress_into
from formats.errors import ImageCorruptError
from formats.frames import FrameType, Source
from formats.header import EXTERNAL_CHUNKS
from formats.known_chunks import SMALLEST, KnownChunks
from formats.limits import CHUNK_SIZE, MAX_INDEX_SIZE
from formats.manifest import ImageSummary
from formats.pipeline import Job, Piece, Pipeline, cut_runs
from formats.reader import ImageReader
from formats.writer import ImageWriter, Sink

PIECE_SIZE = SMALLEST  # bytes of address space that one chunk covers; docs/performance.md
_CUT_WINDOWS = 1 << 15  # windows of CHUNK_SIZE, 32 GiB; later ones are one chunk each, for the list
# of chunks may have 256 MiB
_AHEAD = 2048  # chunks that a source is told of at once; it has at most two such batches in hand

Plain = bytes | bytearray | memoryview


class ChunkKeeper(Protocol):
    """Where a writer's chunks go."""

    def name_of(self, plain: memoryview, /) -> bytes:
        """The name of these plain bytes, 32 bytes. Called in several threads."""

    def has(self, chunk_id: bytes, /) -> bool:
        """Whether a chunk of this name is kept already. Called in several threads."""

    def put(self, piece: Piece, /) -> None:
        """Keep a chunk, or note that it is used when ``piece.known``. Called in stream order."""


class ExternalImageWriter(ImageWriter):
    """As ImageWriter; chunks go to *keeper*, and the image to *sink* is what is left of it.

    Chunks may be kept before there is a record: contents of memory that a program is still at work
    on are *put ahead*, under a number of the caller's. What of that holds in the end `add_known`
    makes a part of the image, without a second look at the bytes.

    Args:
        sink: Gets records, index and end.
        keeper: Gets the chunks.
        level, workers: As for ImageWriter.

    Attributes:
        known: The names of what was put ahead.
    """

    _incompatible = EXTERNAL_CHUNKS

    def __init__(
        self, sink: Sink, keeper: ChunkKeeper, *, level: int = 1, workers: int = 2
    ) -> None:
        self._keeper = keeper
        self._windows = 0
        self.known = KnownChunks()
        super().__init__(sink, level=level, workers=workers)

    def _make_pipeline(self, level: int, workers: int, limit: int) -> Pipeline:
        keeper = self._keeper
        return Pipeline(
            level=level, workers=workers, limit=limit, name_of=keeper.name_of, has=keeper.has
        )

    def _piece_size(self) -> int:
        self._windows += 1
        return PIECE_SIZE if self._windows <= _CUT_WINDOWS else CHUNK_SIZE

    def put_ahead(
        self,
        number: int,
        offset: int,
        runs: Sequence[tuple[int, int]],
        fill: Callable[[memoryview], None],
    ) -> None:
        """Keep contents that may become a part of the image; args as those of `add_chunk`.

        Pieces are replaced as a whole: *runs* hold all content of each piece that they touch.
        """
        size = self.known.piece_size(number, offset) or self._piece_size()
        self._submit(Job(number, offset, tuple(runs), fill, size, ahead=True))

    def adopt(self, known: KnownChunks) -> None:
        """Begin with what was put ahead for an earlier image, as far as its chunks are kept yet."""
        known.require(self._keeper.has)
        self.known = known
        self._windows = len(known)

    def end_ahead(self) -> None:
        """Let everything that was put ahead so far be known."""
        self.drain()
        self.known.settle()

    def add_known(self, object_id: int, number: int) -> int:
        """Make what was put ahead under a number a part of the image; returns bytes.

        It is in the order of addresses, and behind everything that was added before.
        """
        self.drain()
        self._flush_records()
        add, put = self._index.add, self._keeper.put
        size = 0
        for piece in self.known.pieces(number):
            add(pack_meta(ChunkMeta(object_id, piece.offset, tuple(piece.runs), piece.chunk_id)))
            put(piece)
            self._chunks += 1
            size += piece.plain_size
        self._plain_bytes += size
        return size

    def _write_chunk(self, job: Job) -> None:
        object_id, add, put = job.object_id, self._index.add, self._keeper.put
        if job.ahead:
            for piece in job.pieces:
                put(piece)
                piece.body = b""
            self.known.put(object_id, job.offset, job.piece_size, list(job.pieces))
            return
        for piece in job.pieces:
            add(pack_meta(ChunkMeta(object_id, piece.offset, tuple(piece.runs), piece.chunk_id)))
            put(piece)
        self._chunks += len(job.pieces)
        self._plain_bytes += job.plain_size


class Body(NamedTuple):
    """A chunk's bytes as they are kept.

    Attributes:
        data: One zstd frame, or the plain bytes.
        compressed: Which of them.
    """

    data: Plain
    compressed: bool


class ChunkSource(Protocol):
    """Where a reader's chunks come from. Called in several threads."""

    def name_of(self, plain: Plain, /) -> bytes:
        """As `ChunkKeeper.name_of`."""

    def expect(self, chunk_ids: Sequence[bytes], /, *, background: bool) -> None:
        """These will be fetched soon, about in this order.

        Args:
            chunk_ids: Their names.
            background: Whether threads may be started for that.
        """

    def fetch(self, chunk_id: bytes, /) -> Body:
        """The bytes kept under a name; `ExternalChunk` compares them with it."""

    def settle(self) -> None:
        """End all threads; what is wanted later starts them again."""


class ExternalChunk(Chunk):
    """Chunks that follow one another in a window, as one; their bytes come when asked for.

    There is no digest of the stored bytes here: plain bytes are compared with the chunks' names,
    which is better, for it also finds a chunk in another's place.

    Attributes:
        chunk_id: Of the first one.
    """

    __slots__ = ("_metas", "_plain_size", "_source")

    def __init__(self, metas: Sequence[ChunkMeta], source: ChunkSource) -> None:
        first = metas[0]
        self.object_id, self.offset, self.runs, self.chunk_id = first
        if len(metas) > 1:
            self.runs = _joined(metas)
        window = first.offset - first.offset % CHUNK_SIZE
        if sum(self.runs[-1]) <= window + CHUNK_SIZE:
            self.offset = window  # as it was before it was cut into pieces
        self._metas = metas
        self._plain_size = sum([length for _, length in self.runs])
        self._source = source

    @property
    def plain_size(self) -> int:
        return self._plain_size

    @property
    def stored_size(self) -> int:
        """Nothing of it is in the image."""
        return 0

    @property
    def compressed(self) -> bool:
        return False

    def unpack(self) -> bytes | bytearray | memoryview:
        plain = bytearray(self.plain_size)
        self.unpack_into(plain)
        return plain

    def unpack_into(self, buffer: bytearray | memoryview) -> memoryview:
        plain = memoryview(buffer)[: self.plain_size]
        start = 0
        for meta in self._metas:
            end = start + sum([length for _, length in meta.runs])
            part = plain[start:end]
            start = end
            body = self._source.fetch(meta.chunk_id)
            if body.compressed:
                decompress_into(body.data, part)
            elif len(body.data) == len(part):
                part[:] = body.data
            else:
                raise _damaged(meta)
            if self._source.name_of(part) != meta.chunk_id:
                raise _damaged(meta)
        return plain

    def check(self) -> None:
        self.unpack()

    def check_id(self, plain: bytes | bytearray | memoryview) -> None:
        """Compares lengths only: `unpack` has compared the names."""
        if len(plain) != self.plain_size:
            raise _damaged(self._metas[0])


def _joined(metas: Sequence[ChunkMeta]) -> tuple[tuple[int, int], ...]:
    """The runs of all of them; those that touch where two chunks meet are one again."""
    runs: list[tuple[int, int]] = []
    for meta in metas:
        rest = meta.runs
        if runs and sum(runs[-1]) == rest[0][0]:
            start, length = runs.pop()
            runs.append((start, length + rest[0][1]))
            rest = rest[1:]
        runs += rest
    return tuple(runs)


def _follows(metas: Sequence[ChunkMeta], meta: ChunkMeta) -> bool:
    """Whether a chunk goes on where the others of a window end."""
    first, last = metas[0], metas[-1]
    window = first.offset - first.offset % CHUNK_SIZE
    end = sum(meta.runs[-1])
    return (
        meta.object_id == first.object_id
        and meta.offset > last.offset
        and meta.runs[0][0] >= sum(last.runs[-1])
        and end <= window + CHUNK_SIZE
    )


def _damaged(meta: ChunkMeta) -> ImageCorruptError:
    return ImageCorruptError(
        f"chunk {meta.offset:#x} of object {meta.object_id} is not what its name "
        f"{meta.chunk_id.hex()[:16]}… says"
    )


class ExternalImageReader(ImageReader):
    """As ImageReader, for an image whose chunks *chunk_source* has.

    Args:
        source: The image.
        chunk_source: Asked for nothing before the first chunk is taken.
        name: What messages call the image.
    """

    _understood = EXTERNAL_CHUNKS

    def __init__(self, source: Source, chunk_source: ChunkSource, *, name: str) -> None:
        super().__init__(source, name=name)
        if not self.header.incompatible & EXTERNAL_CHUNKS:
            raise ImageCorruptError(f"{name}: an image with contents where none belong")
        self._chunk_source = chunk_source
        self._index_position = self._index_frames = self._index_size = 0
        self._metas = self._for_each_meta()
        self._window: deque[ChunkMeta] = deque()
        self._lock = threading.Lock()

    def cut(self, reader: ImageReader) -> Iterator[ChunkMeta]:
        """What the metas of another image were if it lay where this one lies; reads its contents.

        Args:
            reader: Of a state file, whose chunks are larger and named by their digests.
        """
        for chunk in reader.chunks():
            plain = memoryview(chunk.unpack())
            start = 0
            for piece in cut_runs(chunk.offset, chunk.runs, PIECE_SIZE):
                part = plain[start : start + piece.plain_size]
                start += piece.plain_size
                name = self._chunk_source.name_of(part)
                yield ChunkMeta(chunk.object_id, piece.offset, tuple(piece.runs), name)

    def for_each_meta(self) -> Iterator[ChunkMeta]:
        """The chunks' metas that were not taken yet, without fetching anything."""
        yield from self._window
        self._window.clear()
        yield from self._metas

    def references(self) -> Iterator[Chunk]:
        metas: list[ChunkMeta] = []
        for meta in self.for_each_meta():
            if metas and not _follows(metas, meta):
                yield ExternalChunk(metas, self._chunk_source)
                metas = []
            metas.append(meta)
        if metas:
            yield ExternalChunk(metas, self._chunk_source)

    def chunks(self) -> Iterator[Chunk]:
        """As ImageReader's. No thread is started: a process without threads may do more."""
        while (chunk := self._next_external(background=False)) is not None:
            yield chunk

    def for_each_chunk(
        self,
        consume: Callable[[Chunk, memoryview], None],
        *,
        workers: int = 2,
        check_ids: bool = False,
    ) -> None:
        """As ImageReader's; names are always compared."""
        errors: list[BaseException] = []

        def run() -> None:
            buffer = bytearray(CHUNK_SIZE)
            try:
                while not errors and (chunk := self._next_external(background=True)):
                    with self._named():
                        plain = chunk.unpack_into(buffer)
                    consume(chunk, plain)
            except BaseException as exc:  # raised again below
                errors.append(exc)

        threads = [
            threading.Thread(target=run, name=f"wherry-fetch-{number}", daemon=True)
            for number in range(max(1, workers))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._chunk_source.settle()
        if errors:
            raise errors[0]

    def finish(self) -> ImageSummary:
        """Read what is left of the list of chunks, and the end. Contents are not fetched."""
        for _ in self.for_each_meta():
            pass
        with self._named():
            return self._check_end(self._index_position, self._index_frames, True)

    def _next_external(self, *, background: bool) -> ExternalChunk | None:
        with self._lock:
            if len(self._window) < _AHEAD:
                batch = list(itertools.islice(self._metas, _AHEAD))
                self._window += batch
                if batch:
                    names = [meta.chunk_id for meta in batch]
                    self._chunk_source.expect(names, background=background)
            if not self._window:
                return None
            metas = [self._window.popleft()]
            while self._window and _follows(metas, self._window[0]):
                metas.append(self._window.popleft())
            return ExternalChunk(metas, self._chunk_source)

    def _for_each_meta(self) -> Iterator[ChunkMeta]:
        for _ in self.for_each_raw_record():
            pass  # nobody asked for the rest of them; they are checked all the same
        with self._named():
            frame = self._next_of(FrameType.INDEX)
            self._index_position = frame.position if frame else self._end_position()
            while frame is not None:
                self._index_frames += 1
                self._index_size += frame.head.plain_size
                if self._index_size > MAX_INDEX_SIZE:
                    raise ImageCorruptError(f"a list of chunks of more than {MAX_INDEX_SIZE} bytes")
                for value in wire.unpack_all(self._frames.read_plain(frame)):
                    meta = unpack_meta_value(value)
                    self._seen.chunks += 1
                    self._seen.plain_bytes += sum([length for _, length in meta.runs])
                    yield meta
                frame = self._next_of(FrameType.INDEX)

    def _end_position(self) -> int:
        return self._ahead.position if self._ahead else 0
