"""Whole images: writer and reader, through memory, pipes and threads."""

from __future__ import annotations

import io
import os
import random
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from formats import wire
from formats.chunks import Chunk, ChunkMeta, pack_meta
from formats.errors import ImageCorruptError, ImageWriteError
from formats.frames import FrameType, Head, digest_of, pack_head
from formats.index import ImageIndex
from formats.limits import CHUNK_SIZE
from formats.manifest import IndexEntry, for_each_entry, pack_entry
from formats.records.codec import Record, pack_record, registered
from formats.records.image import Image
from formats.records.memory import SharedMemory
from formats.statefile import ImageReader, ImageSummary, ImageWriter, Source
from tests.formats.samples import (
    Content,
    copy_of,
    half_compressible,
    image_bytes,
    samples_of,
    small_chunks,
    small_records,
    write_image,
)

Found = list[tuple[int, int, tuple[tuple[int, int], ...], bytes]]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before, threading.enumerate()


def read_image(source: Source) -> tuple[list[Record], Found, ImageSummary]:
    reader = ImageReader(source)
    records = reader.records()
    chunks = [(c.object_id, c.offset, c.runs, bytes(c.unpack())) for c in reader.chunks()]
    return records, chunks, reader.finish()


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_round_trip(workers: int) -> None:
    sink = io.BytesIO()
    written = write_image(sink, workers=workers)
    assert sink.getvalue() == image_bytes()  # the same bytes, however many threads
    records, chunks, read = read_image(io.BytesIO(sink.getvalue()))
    assert records == small_records()
    assert chunks == small_chunks()
    assert read == written
    assert read.file_size == len(sink.getvalue())
    assert (read.records, read.chunks) == (len(records), len(chunks))
    assert read.plain_bytes == sum(len(plain) for *_, plain in chunks)


@pytest.mark.parametrize(
    ("records", "chunks"), [([], []), (None, []), ([], None)], ids=["empty", "records", "chunks"]
)
def test_images_without(records: list[Record] | None, chunks: list[Content] | None) -> None:
    data = image_bytes(records, chunks)
    read_records, read_chunks, _ = read_image(io.BytesIO(data))
    assert read_records == (small_records() if records is None else records)
    assert read_chunks == (small_chunks() if chunks is None else chunks)


def test_a_record_of_every_kind() -> None:
    records = [sample for cls in registered().values() for sample in samples_of(cls)]
    assert read_image(io.BytesIO(image_bytes(records, [])))[0] == records


def test_many_records_take_several_frames() -> None:
    records: list[Record] = [
        Image(f"c{number}", number, "0.1.0", {"env": ["x" * 200]}, {}) for number in range(10_000)
    ]
    data = image_bytes(records, [])
    read, _, summary = read_image(io.BytesIO(data))
    assert read == records
    assert summary.record_frames > 1


def many_chunks(count: int) -> list[Content]:
    noise = random.Random(count)
    return [
        (
            number % 3,
            number * CHUNK_SIZE,
            ((number * CHUNK_SIZE + 4096, size := noise.randrange(1, 200_000)),),
            half_compressible(size, seed=number),
        )
        for number in range(count)
    ]


def test_through_a_pipe() -> None:
    chunks = many_chunks(60)
    read_end, write_end = os.pipe()
    summaries = []

    def write() -> None:
        with open(write_end, "wb", buffering=0) as sink:
            summaries.append(write_image(sink, chunks=chunks))

    thread = threading.Thread(target=write)
    thread.start()
    with open(read_end, "rb", buffering=0) as source:
        records, found, summary = read_image(source)
    thread.join()
    assert records == small_records()
    assert found == chunks
    assert [summary] == summaries


class SlowSink:
    """Takes a few bytes at a time, as a socket does."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        part = bytes(data[:1000])
        self.data += part
        return len(part)


class SilentSink:
    """Takes all and returns nothing, as ``sendall`` does."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self.data += data


@pytest.mark.parametrize("make", [SlowSink, SilentSink])
def test_sinks_of_both_manners(make: Callable[[], SlowSink | SilentSink]) -> None:
    sink = make()
    write_image(sink)
    assert bytes(sink.data) == image_bytes()


class Trickle(io.RawIOBase):
    """Gives one to three bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._source = io.BytesIO(data)
        self._sizes = random.Random(3)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        part = self._source.read(min(len(buffer), self._sizes.randrange(1, 4)))
        buffer[: len(part)] = part
        return len(part)


def test_short_reads() -> None:
    _, chunks, _ = read_image(Trickle(image_bytes()))
    assert chunks == small_chunks()


def test_frames_come_in_the_order_of_the_calls() -> None:
    """A slow fill must not let later chunks overtake."""
    gate = threading.Event()

    def slow(view: memoryview) -> None:
        assert gate.wait(30)
        view[:] = b"s" * len(view)

    def fast(view: memoryview) -> None:
        gate.set()
        view[:] = b"f" * len(view)

    sink = io.BytesIO()
    with ImageWriter(sink, workers=2) as writer:
        writer.add_chunk(1, 0, [(0, 10)], slow)
        writer.add_chunk(2, 0, [(0, 10)], fast)
        writer.finish()
    _, chunks, _ = read_image(io.BytesIO(sink.getvalue()))
    assert [object_id for object_id, *_ in chunks] == [1, 2]


def test_after_a_drain_nothing_is_read_any_more() -> None:
    """What fill reads may change as soon as a drain is over, and more may come then."""
    source = bytearray(b"a" * 10)

    def copy(view: memoryview) -> None:
        view[:] = source

    sink = io.BytesIO()
    with ImageWriter(sink, workers=2) as writer:
        for number in range(20):
            writer.add_chunk(number, 0, [(0, 10)], copy)
        writer.drain()
        source[:] = b"b" * 10
        writer.add_chunk(20, 0, [(0, 10)], copy)
        writer.finish()
    _, chunks, _ = read_image(io.BytesIO(sink.getvalue()))
    assert [bytes(plain) for *_, plain in chunks] == [b"a" * 10] * 20 + [b"b" * 10]


def test_an_error_in_fill_rises_in_the_caller() -> None:
    def fail(view: memoryview) -> None:
        raise ProcessLookupError(3, "the task is gone")

    with ImageWriter(io.BytesIO()) as writer, pytest.raises(ProcessLookupError, match="is gone"):
        writer.add_chunk(1, 0, [(0, 10)], fail)
        writer.finish()


def test_an_error_in_fill_rises_while_more_chunks_are_added() -> None:
    def fail(view: memoryview) -> None:
        raise ProcessLookupError(3, "the task is gone")

    writer = ImageWriter(io.BytesIO())
    with pytest.raises(ProcessLookupError):
        for number in range(1000):
            writer.add_chunk(1, number * CHUNK_SIZE, [(number * CHUNK_SIZE, 10)], fail)
    assert threading.active_count() == 1
    with pytest.raises(ValueError, match="finished or aborted"):
        writer.finish()


class FullSink:
    """A disk with room for the header and a little more."""

    def __init__(self) -> None:
        self.room = 100_000

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return len(data)


def test_an_error_in_the_sink_ends_the_threads() -> None:
    writer = ImageWriter(FullSink())
    with pytest.raises(OSError, match="No space left"):
        for object_id, offset, runs, plain in many_chunks(200):
            writer.add_chunk(object_id, offset, runs, copy_of(plain))
    assert threading.active_count() == 1


def test_abort_leaves_no_thread_and_may_be_repeated() -> None:
    writer = ImageWriter(io.BytesIO())
    for object_id, offset, runs, plain in many_chunks(20):
        writer.add_chunk(object_id, offset, runs, copy_of(plain))
    writer.abort()
    writer.abort()
    assert threading.active_count() == 1


def test_the_writer_refuses_misuse() -> None:
    writer = ImageWriter(io.BytesIO(), workers=0)
    writer.add_chunk(1, 0, [(0, 8)], copy_of(bytes(8)))
    with pytest.raises(ValueError, match="before the first chunk"):
        writer.add_record(SharedMemory(1, 1))
    for object_id, offset, runs in [(1, 0, []), (-1, 0, [(0, 8)]), (1, 8, [(0, 8)])]:
        with pytest.raises(ValueError, match=f"of object {object_id}"):
            writer.add_chunk(object_id, offset, runs, copy_of(b""))
    writer.finish()
    with pytest.raises(ValueError, match="finished"):
        writer.add_chunk(1, 0, [(0, 8)], copy_of(bytes(8)))


def test_a_record_beyond_the_bounds_is_refused_when_written() -> None:
    from formats.limits import MAX_BLOB_SIZE

    writer = ImageWriter(io.BytesIO())
    huge = {f"key {number}": "x" * (1 << 20) for number in range(40)}
    with pytest.raises(ImageWriteError, match="a record 'image' has"):
        writer.add_record(Image("web", 0, "0.1.0", huge, {}))
    assert MAX_BLOB_SIZE < 40 << 20


def test_memory_stays_bounded_both_ways(tmp_path: Path) -> None:
    noise = half_compressible(CHUNK_SIZE)
    path = tmp_path / "image"
    tracemalloc.start()
    try:
        with path.open("wb", buffering=0) as sink, ImageWriter(sink, workers=2) as writer:
            for number in range(200):
                start = number * CHUNK_SIZE
                writer.add_chunk(1, start, [(start, CHUNK_SIZE)], copy_of(noise))
            writer.finish()
        with path.open("rb", buffering=0) as source:
            reader = ImageReader(source)
            reader.for_each_chunk(lambda chunk, plain: None)
            reader.finish()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20


# Reading in threads


def test_for_each_chunk_hands_out_everything_once() -> None:
    chunks = many_chunks(80)
    found: Found = []
    lock = threading.Lock()

    def consume(chunk: Chunk, plain: memoryview) -> None:
        with lock:
            found.append((chunk.object_id, chunk.offset, chunk.runs, bytes(plain)))

    reader = ImageReader(io.BytesIO(image_bytes(chunks=chunks)))
    reader.for_each_chunk(consume, workers=3, check_ids=True)
    reader.finish()
    assert sorted(found) == sorted(chunks)


@pytest.mark.parametrize("at", [0, 30, 79])
def test_an_error_of_the_consumer_rises_in_the_reader(at: int) -> None:
    chunks = many_chunks(80)

    def consume(chunk: Chunk, plain: memoryview) -> None:
        if chunk.offset == at * CHUNK_SIZE:
            raise PermissionError(1, "not this one")

    reader = ImageReader(io.BytesIO(image_bytes(chunks=chunks)))
    with pytest.raises(PermissionError, match="not this one"):
        reader.for_each_chunk(consume, workers=2)


def test_the_first_error_stops_the_reading() -> None:
    source = io.BytesIO(image_bytes(chunks=many_chunks(200)))

    def consume(chunk: Chunk, plain: memoryview) -> None:
        raise PermissionError(1, "none of them")

    with pytest.raises(PermissionError):
        ImageReader(source).for_each_chunk(consume, workers=2)
    assert source.tell() < len(source.getvalue()) // 2


def test_an_interrupt_in_the_reading_thread_ends_the_others() -> None:
    class Interrupting(io.BytesIO):
        reads = 0

        def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
            self.reads += 1
            if self.reads > 30:
                raise KeyboardInterrupt
            return super().readinto(buffer)

    source = Interrupting(image_bytes(chunks=many_chunks(80)))
    with pytest.raises(KeyboardInterrupt):
        ImageReader(source).for_each_chunk(lambda chunk, plain: None)


def test_chunks_left_alone_are_checked_by_finish() -> None:
    data = image_bytes(chunks=many_chunks(5))
    ImageReader(io.BytesIO(data)).finish()
    reader = ImageReader(io.BytesIO(data))
    iterator = reader.chunks()
    next(iterator)
    reader.finish()
    reader = ImageReader(io.BytesIO(data))
    with pytest.raises(PermissionError):
        reader.for_each_chunk(_refuse)


def _refuse(chunk: Chunk, plain: memoryview) -> None:
    raise PermissionError(1, "no")


def test_a_name_that_is_not_the_contents() -> None:
    """Only a writer with a bug makes this; verifying notices it."""
    chunk_id = digest_of(b"something else")
    sink = io.BytesIO()
    with ImageWriter(sink, workers=0) as writer:
        writer.add_chunk(1, 0, [(0, 8192)], copy_of(bytes(8192)))
        (job,) = writer._pipeline._jobs
        job.chunk_id = chunk_id
        writer.finish()
    reader = ImageReader(io.BytesIO(sink.getvalue()))
    with pytest.raises(ImageCorruptError, match="is not what its name"):
        reader.for_each_chunk(lambda chunk, plain: None, check_ids=True)


# Streams that go on, and records of the future


def test_nothing_is_read_beyond_the_end() -> None:
    source = io.BytesIO(image_bytes() + b"the next message")
    reader = ImageReader(source, more_follows=True)
    reader.finish()
    assert source.read() == b"the next message"


def test_records_of_unknown_kinds_are_passed_over() -> None:
    sink = io.BytesIO()
    with ImageWriter(sink, workers=0) as writer:
        writer.add_record(SharedMemory(1, 4096))
        writer._block += wire.pack(["from-the-future", {"key": 1}])
        writer._records += 1
        writer.add_record(SharedMemory(2, 4096))
        writer.finish()
    reader = ImageReader(io.BytesIO(sink.getvalue()))
    assert reader.records() == [SharedMemory(1, 4096), SharedMemory(2, 4096)]
    assert reader.finish().records == 3
    kinds = [kind for kind, _ in ImageReader(io.BytesIO(sink.getvalue())).for_each_raw_record()]
    assert kinds == ["shared-memory", "from-the-future", "shared-memory"]


def test_skippable_frames_are_skipped() -> None:
    sink = io.BytesIO()
    with ImageWriter(sink, workers=0) as writer:
        writer._put_frame(200, b"a later minor version's", 23, 0)
        writer.add_record(SharedMemory(1, 4096))
        writer._flush_records()
        writer._put_frame(255, b"", 0, 0, meta=b"more")
        writer.add_chunk(1, 0, [(0, 8)], copy_of(b"contents"))
        summary = writer.finish()
    records, chunks, read = read_image(io.BytesIO(sink.getvalue()))
    assert records == [SharedMemory(1, 4096)]
    assert [plain for *_, plain in chunks] == [b"contents"]
    assert read == summary


@pytest.mark.parametrize(
    "value", [None, 1, [], ["image"], ["image", []], [1, {}], ["No Kind", {}], ["image", {}, 1]]
)
def test_what_is_no_record(value: object) -> None:
    sink = io.BytesIO()
    with ImageWriter(sink, workers=0) as writer:
        writer._block += wire.pack(value)
        writer._records += 1
        writer.finish()
    with pytest.raises(ImageCorruptError, match=r"^image: a record is not"):
        ImageReader(io.BytesIO(sink.getvalue())).records()


def test_a_record_with_a_wrong_field_is_named_with_its_image() -> None:
    sink = io.BytesIO()
    fields = pack_record(SharedMemory(1, 4096)) | {"size": "big"}
    with ImageWriter(sink, workers=0) as writer:
        writer._block += wire.pack(["shared-memory", fields])
        writer.finish()
    with pytest.raises(ImageCorruptError, match=r"^web\.wherry: record 'shared-memory' key 'size'"):
        ImageReader(io.BytesIO(sink.getvalue()), name="web.wherry").records()


# The index


def test_the_index_leads_to_every_chunk() -> None:
    chunks = many_chunks(30)
    data = image_bytes(chunks=chunks)
    index = ImageIndex(io.BytesIO(data))
    assert index.summary == ImageReader(io.BytesIO(data)).finish()
    entries = list(index.for_each_entry())
    for entry, (object_id, offset, runs, plain) in zip(entries, chunks, strict=True):
        assert entry.meta[:3] == (object_id, offset, runs)
        body = data[entry.body_position :][: entry.head.stored_size]
        assert bytes(Chunk(entry.head, entry.meta, body).unpack()) == plain


def test_a_long_index_takes_several_frames() -> None:
    runs = tuple((number * 512, 256) for number in range(1000))
    chunks = [(number, 0, runs, bytes(256_000)) for number in range(1000)]
    data = image_bytes([], chunks)
    index = ImageIndex(io.BytesIO(data))
    assert index.summary.index_frames > 1
    assert [entry.meta.object_id for entry in index.for_each_entry()] == list(range(1000))
    ImageReader(io.BytesIO(data)).finish()


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"x", lambda d: d[:100]])
def test_an_end_that_is_none(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ImageCorruptError, match="no image ends at byte"):
        ImageIndex(io.BytesIO(change(image_bytes())))


@pytest.mark.parametrize("cut", [1, 8, 9, 71, 72, 73, 100])
def test_an_index_that_ends_inside_an_entry(cut: int) -> None:
    meta = ChunkMeta(1, 0, ((0, 8),), digest_of(bytes(8)))
    packed = pack_meta(meta)
    head = Head(FrameType.CHUNK, 0, 3, len(packed), 8, 8, meta.chunk_id)
    entry = pack_entry(64, pack_head(head, packed))
    assert list(for_each_entry(entry * 2)) == [IndexEntry(64, head, meta)] * 2
    with pytest.raises(ImageCorruptError, match="ends inside an entry"):
        list(for_each_entry(entry + entry[:cut]))
