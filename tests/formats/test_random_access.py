"""Chunks in any order, from the index."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from formats.errors import ImageCorruptError, ImageError
from formats.random_access import RandomAccessReader
from formats.records.memory import SharedMemory
from formats.statefile import ImageReader, ImageWriter
from tests.formats.samples import copy_of, image_bytes, small_chunks, small_records


@contextmanager
def opened(data: bytes) -> Iterator[io.FileIO]:
    with open(os.memfd_create("image"), "r+b", buffering=0) as file:
        file.write(data)
        file.seek(0)
        yield file


def contents(reader: ImageReader) -> dict[tuple[int, int], bytes]:
    return {(c.object_id, c.offset): bytes(c.unpack()) for c in reader.references()}


def test_gives_what_the_stream_gives() -> None:
    data = image_bytes(small_records())
    in_order = ImageReader(io.BytesIO(data))
    with opened(data) as file:
        reader = RandomAccessReader(file)
        assert reader.records() == in_order.records()
        chunks = list(reader.references())
        assert len(chunks) == len(small_chunks())
        found = {(c.object_id, c.offset): bytes(c.unpack()) for c in reversed(chunks)}
        assert found == contents(in_order)
        assert reader.finish() == in_order.finish()


def test_hands_chunks_to_threads() -> None:
    data = image_bytes(small_records())
    found: dict[tuple[int, int], bytes] = {}
    with opened(data) as file:
        reader = RandomAccessReader(file)
        reader.for_each_chunk(
            lambda chunk, plain: found.update({(chunk.object_id, chunk.offset): bytes(plain)}),
            check_ids=True,
        )
        reader.finish()
    assert found == contents(ImageReader(io.BytesIO(data)))


def test_only_what_is_wanted_is_read() -> None:
    data = bytearray(image_bytes(small_records()))
    with opened(bytes(data)) as file:
        reader = RandomAccessReader(file)
        first, *others = reader.references()
        reader.finish()
        os.pwrite(file.fileno(), b"\0" * len(data), 0)  # of no use any more, but nobody looks
        with pytest.raises(ImageCorruptError, match="digest"):
            first.unpack()
        os.ftruncate(file.fileno(), 0)
        with pytest.raises(ImageError) as caught:
            others[-1].unpack()
        assert caught.value.reason == "image-truncated"


def _with_skippable_frames() -> bytes:
    sink = io.BytesIO()
    with ImageWriter(sink, workers=0) as writer:
        writer.add_record(SharedMemory(1, 4096))
        for number in range(3):
            writer.add_chunk(1, number << 20, [(number << 20, 8)], copy_of(b"content%d" % number))
            body = b"a later minor version's"
            writer._put_frame(200 + number, body, len(body), 0)
        writer.finish()
    return sink.getvalue()


def test_frames_between_chunks_are_checked_and_skipped() -> None:
    data = _with_skippable_frames()
    with opened(data) as file:
        reader = RandomAccessReader(file)
        assert sorted(contents(reader).values()) == [b"content0", b"content1", b"content2"]
        assert reader.finish() == ImageReader(io.BytesIO(data)).finish()
    at = data.rindex(b"a later minor")
    with opened(data[:at] + b"A" + data[at + 1 :]) as file:
        reader = RandomAccessReader(file, name="web")
        with pytest.raises(ImageCorruptError, match=r"^web: the body of frame"):
            list(reader.references())
