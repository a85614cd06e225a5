"""Images that are cut, bent, forged or foreign: always an ImageError, never anything else."""

from __future__ import annotations

import io
import os
import random
import struct
import tracemalloc
from collections.abc import Callable

import pytest

from formats import wire
from formats.compression import Compressor, decompress
from formats.errors import ImageCorruptError, ImageError, ImageVersionError
from formats.frames import FLAG_ZSTD, HEAD_SIZE, FrameType, Head, digest_of, pack_head
from formats.header import HEADER_SIZE, Header, pack_header
from formats.index import ImageIndex
from formats.limits import CHUNK_SIZE, MAX_BLOCK_SIZE, MAX_RECORDS_SIZE
from formats.random_access import RandomAccessReader
from formats.records.memory import SharedMemory
from formats.statefile import ImageReader, ImageWriter
from tests.formats.samples import copy_of, image_bytes, small_chunks, small_records


def read_all(data: bytes) -> None:
    """Everything a restore reads."""
    reader = ImageReader(io.BytesIO(data))
    reader.records()
    for chunk in reader.chunks():
        chunk.unpack()
    reader.finish()


def read_in_threads(data: bytes) -> None:
    """Everything ``verify`` reads."""
    reader = ImageReader(io.BytesIO(data))
    reader.records()
    reader.for_each_chunk(lambda chunk, plain: None, workers=1, check_ids=True)
    reader.finish()


def read_at_random(data: bytes) -> None:
    """Everything a lazy restore reads, the last chunk first."""
    with open(os.memfd_create("image"), "r+b", buffering=0) as file:
        file.write(data)
        file.seek(0)
        reader = RandomAccessReader(file)
        reader.records()
        chunks = list(reader.references())
        reader.finish()
        for chunk in reversed(chunks):
            chunk.unpack()


STREAMS = [read_all, read_in_threads]
READERS = [*STREAMS, read_at_random]
IMAGE = image_bytes(small_records()[2:5])


def split(data: bytes) -> list[bytes]:
    """The header and each frame, as bytes."""
    parts, at = [data[:HEADER_SIZE]], HEADER_SIZE
    while at < len(data):
        meta_size, stored_size = struct.unpack_from("<II", data, at + 8)
        end = at + HEAD_SIZE + meta_size + stored_size
        parts.append(data[at:end])
        at = end
    return parts


def frame(
    kind: int,
    body: bytes,
    *,
    sequence: int,
    plain_size: int | None = None,
    flags: int = 0,
    meta: bytes = b"",
    stored_size: int | None = None,
) -> bytes:
    """A frame with a right check and digest, whatever it claims."""
    head = Head(
        kind,
        flags,
        sequence,
        len(meta),
        len(body) if stored_size is None else stored_size,
        len(body) if plain_size is None else plain_size,
        digest_of(body),
    )
    return pack_head(head, meta) + body


@pytest.mark.parametrize("read", READERS)
def test_the_image_itself_is_fine(read: Callable[[bytes], None]) -> None:
    read(IMAGE)
    assert b"".join(split(IMAGE)) == IMAGE
    assert len(split(IMAGE)) == 1 + 1 + 3 + 1 + 1


def test_every_truncation() -> None:
    for size in range(len(IMAGE)):
        with pytest.raises(ImageCorruptError, match=r"^image: ") as caught:
            read_all(IMAGE[:size])
        assert caught.value.reason == "image-truncated"


@pytest.mark.parametrize("read", READERS)
def test_truncation_at_every_frame(read: Callable[[bytes], None]) -> None:
    parts = split(IMAGE)
    for count in range(len(parts)):
        with pytest.raises(ImageCorruptError, match=r"ends at byte|is empty") as caught:
            read(b"".join(parts[:count]))
        assert caught.value.reason == "image-truncated"


def test_every_flipped_bit() -> None:
    for bit in range(len(IMAGE) * 8):
        damaged = bytearray(IMAGE)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ImageError):
            read_all(bytes(damaged))


def test_random_bytes_in_random_places() -> None:
    noise = random.Random(11)
    for _ in range(2000):
        damaged = bytearray(IMAGE)
        at = noise.randrange(len(damaged))
        damaged[at : at + noise.randrange(60)] = noise.randbytes(noise.randrange(60))
        if damaged != IMAGE:
            with pytest.raises(ImageError):
                read_all(bytes(damaged))


@pytest.mark.parametrize("read", READERS)
def test_frames_swapped_dropped_and_repeated(read: Callable[[bytes], None]) -> None:
    parts = split(IMAGE)
    for number in range(1, len(parts)):
        dropped = parts[:number] + parts[number + 1 :]
        repeated = parts[: number + 1] + parts[number:]
        others = [dropped, repeated]
        if number + 1 < len(parts):
            swapped = parts.copy()
            swapped[number], swapped[number + 1] = swapped[number + 1], swapped[number]
            others.append(swapped)
        for changed in others:
            with pytest.raises(ImageCorruptError):
                read(b"".join(changed))


def test_a_frame_of_another_image() -> None:
    """Every frame is sound in itself; only the root digest can tell."""
    object_id, offset, runs, plain = small_chunks()[1]
    other = split(
        image_bytes(
            small_records()[2:5],
            [small_chunks()[0], (object_id, offset, runs, plain[::-1]), small_chunks()[2]],
        )
    )
    parts = split(IMAGE)
    assert len(parts[3]) == len(other[3])
    with pytest.raises(ImageCorruptError, match="root digest"):
        read_all(b"".join([*parts[:3], other[3], *parts[4:]]))


def test_a_renumbered_frame_of_another_place() -> None:
    """Dropping a frame and renumbering the rest: the root digest again."""
    parts = split(IMAGE)
    kept = [parts[1], *parts[3:]]
    renumbered = []
    for sequence, part in enumerate(kept):
        (meta_size,) = struct.unpack_from("<I", part, 8)
        fixed = part[:4] + struct.pack("<I", sequence) + part[8:56]
        meta = part[HEAD_SIZE : HEAD_SIZE + meta_size]
        renumbered.append(fixed + digest_of(fixed + meta)[:8] + part[HEAD_SIZE:])
    with pytest.raises(ImageCorruptError, match="root digest"):
        read_all(parts[0] + b"".join(renumbered))


def test_a_header_of_another_image() -> None:
    header = pack_header(Header(compatible=1 << 5))
    with pytest.raises(ImageCorruptError, match="root digest"):
        read_all(header + IMAGE[HEADER_SIZE:])


@pytest.mark.parametrize("read", STREAMS)
@pytest.mark.parametrize("extra", [b"\0", b"\n", bytes(10_000), IMAGE])
def test_trailing_bytes(read: Callable[[bytes], None], extra: bytes) -> None:
    with pytest.raises(ImageCorruptError, match="bytes follow the end of the image") as caught:
        read(IMAGE + extra)
    assert caught.value.reason == "image-trailing-bytes"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"#!/bin/sh\nexit 0\n",
        b"\x7fELF" + bytes(500),
        b"\x28\xb5\x2f\xfd" + bytes(500),
        bytes(1000),
        b"WHERRY\n" + bytes(500),
        random.Random(5).randbytes(4096),
    ],
)
def test_foreign_files(data: bytes) -> None:
    with pytest.raises(ImageCorruptError, match=r"^image: "):
        read_all(data)


def test_files_that_are_not_an_image_are_told_apart_from_damaged_ones() -> None:
    with pytest.raises(ImageCorruptError, match="not a wherry image") as caught:
        read_all(b"#!/bin/sh\n")
    assert caught.value.reason == "not-an-image"


# Forged images: everything adds up, except for one lie


def peak_of(read: Callable[[bytes], None], data: bytes) -> int:
    """The most memory that refusing *data* took."""
    tracemalloc.start()
    try:
        with pytest.raises(ImageError):
            read(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


HUGE = 0xFFFF_FFFF


@pytest.mark.parametrize("kind", [FrameType.RECORDS, FrameType.CHUNK, FrameType.INDEX, 200])
@pytest.mark.parametrize("read", READERS)
def test_promised_sizes_are_not_allocated(read: Callable[[bytes], None], kind: int) -> None:
    header = IMAGE[:HEADER_SIZE]
    for stored_size, plain_size, flags in [(HUGE, HUGE, 0), (100, HUGE, FLAG_ZSTD), (HUGE, 8, 1)]:
        part = frame(
            kind, b"x", sequence=0, stored_size=stored_size, plain_size=plain_size, flags=flags
        )
        assert peak_of(read, header + part) < 20 << 20


@pytest.mark.parametrize("read", READERS)
def test_a_body_that_is_not_there(read: Callable[[bytes], None]) -> None:
    """The largest body allowed is promised, and one byte follows."""
    header = IMAGE[:HEADER_SIZE]
    part = frame(FrameType.RECORDS, b"x", sequence=0, stored_size=1000, plain_size=1000)
    assert peak_of(read, header + part) < 20 << 20


def zstd_of(plain: bytes) -> bytes:
    stored = Compressor().compress(plain)
    assert stored is not None
    return stored


@pytest.mark.parametrize("read", READERS)
def test_zip_bombs_stay_small(read: Callable[[bytes], None]) -> None:
    bomb = zstd_of(bytes(MAX_BLOCK_SIZE))
    meta = wire.pack([1, 0, [0, CHUNK_SIZE], bytes(32)])
    header = IMAGE[:HEADER_SIZE]
    chunk = frame(
        FrameType.CHUNK, bomb, sequence=0, plain_size=CHUNK_SIZE, flags=FLAG_ZSTD, meta=meta
    )
    assert peak_of(read, header + chunk) < 10 << 20
    records = b"".join(
        frame(FrameType.RECORDS, bomb, sequence=n, plain_size=MAX_BLOCK_SIZE, flags=FLAG_ZSTD)
        for n in range(20)
    )
    assert peak_of(read, header + records) < 3 * MAX_BLOCK_SIZE


def test_records_without_end() -> None:
    """Sound frames of sound records, more than an image may hold."""
    size = 8 << 20
    block = wire.pack(["from-the-future", {"key": "x" * (1 << 20)}]) * 7
    stored = zstd_of(block)
    frames = b"".join(
        frame(FrameType.RECORDS, stored, sequence=n, plain_size=len(block), flags=FLAG_ZSTD)
        for n in range(MAX_RECORDS_SIZE // len(block) + 1)
    )
    assert len(block) < size
    tracemalloc.start()
    try:
        with pytest.raises(ImageCorruptError, match="bytes of records"):
            read_all(IMAGE[:HEADER_SIZE] + frames)
        assert tracemalloc.get_traced_memory()[1] < 8 * size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [b"\x81\xa1a\x01", b"\x90"])
@pytest.mark.parametrize("together", [True, False])
def test_records_of_many_small_values(value: bytes, together: bool) -> None:
    """32 MiB of them would be gigabytes of objects; the frame has a few kilobytes."""
    array = b"\xdd\x00\x01\x00\x00" + value * (1 << 16)
    count = (30 << 20) // len(array)
    start = b"\x92\xa5newer\x81\xa4more"
    if together:
        block = start + b"\xdc" + count.to_bytes(2, "big") + array * count
    else:
        block = (start + array) * count
    stored = zstd_of(block)
    bomb = frame(FrameType.RECORDS, stored, sequence=0, plain_size=len(block), flags=FLAG_ZSTD)
    tracemalloc.start()
    try:
        with pytest.raises(ImageCorruptError, match="unpacks into far more") as caught:
            read_all(IMAGE[:HEADER_SIZE] + bomb)
        assert caught.value.reason == "image-bomb"
        assert tracemalloc.get_traced_memory()[1] < 2 * len(block) + (80 << 20)
    finally:
        tracemalloc.stop()


def test_records_that_compress_well_are_written_so_that_they_can_be_read() -> None:
    rec = SharedMemory(1, 4096)
    sink = io.BytesIO()
    with ImageWriter(sink, workers=0) as writer:
        for _ in range(120_000):
            writer.add_record(rec)
        writer.finish()
    assert len(ImageReader(io.BytesIO(sink.getvalue())).records()) == 120_000


@pytest.mark.parametrize("read", STREAMS)
def test_frames_out_of_order(read: Callable[[bytes], None]) -> None:
    object_id, offset, runs, plain = small_chunks()[1]
    meta = wire.pack([object_id, offset, [0x2000, runs[0][1]], digest_of(plain)])
    chunk = frame(FrameType.CHUNK, plain, sequence=0, meta=meta)
    records = frame(FrameType.RECORDS, wire.pack(["x", {}]), sequence=1)
    with pytest.raises(ImageCorruptError, match="comes after one of type chunk"):
        read(IMAGE[:HEADER_SIZE] + chunk + records)


@pytest.mark.parametrize("kind", [5, 127])
def test_an_unknown_frame_is_a_newer_version(kind: int) -> None:
    with pytest.raises(ImageVersionError, match=f"unknown type {kind}; upgrade wherry"):
        read_all(IMAGE[:HEADER_SIZE] + frame(kind, b"", sequence=0))


def test_signed_nonsense() -> None:
    """Random changes with checks and digests made right again, to reach what lies behind them."""
    noise = random.Random(23)
    parts = [signed_parts(part) for part in split(IMAGE)[1:]]
    refused = 0
    for _ in range(3000):
        changed = [list(part) for part in parts]
        part = noise.choice(changed)
        at = noise.choice([0, 1, 1, 2, 2, 2])
        content = bytearray(part[at])
        place = noise.randrange(len(content) + 1)
        content[place : place + noise.randrange(4)] = noise.randbytes(noise.randrange(4))
        part[at] = bytes(content)
        data = IMAGE[:HEADER_SIZE] + b"".join(sign(*part) for part in changed)
        try:
            read_all(data)
        except ImageError:
            refused += 1
    assert refused > 2500


def signed_parts(part: bytes) -> tuple[bytes, bytes, bytes]:
    """A frame as (head fields before the digest, meta, plain body)."""
    meta_size, stored_size, plain_size = struct.unpack_from("<III", part, 8)
    body = part[HEAD_SIZE + meta_size :]
    assert len(body) == stored_size
    plain = decompress(body, plain_size) if part[1] & FLAG_ZSTD else body
    return part[:8], part[HEAD_SIZE : HEAD_SIZE + meta_size], plain


def sign(fields: bytes, meta: bytes, plain: bytes) -> bytes:
    """The frame again, its body uncompressed, with sizes, digest and check that fit."""
    sizes = struct.pack("<IIII", len(meta), len(plain), len(plain), 0)
    fixed = (fields + bytes(8))[:1] + b"\0" + (fields + bytes(8))[2:8] + sizes + digest_of(plain)
    return fixed + digest_of(fixed + meta)[:8] + meta + plain


def forged(change: Callable[[ImageWriter], None]) -> bytes:
    """An image whose writer was tampered with before its end."""
    sink = io.BytesIO()
    with ImageWriter(sink, workers=0) as writer:
        for rec in small_records()[2:5]:
            writer.add_record(rec)
        for object_id, offset, runs, plain in small_chunks():
            writer.add_chunk(object_id, offset, runs, copy_of(plain))
        while len(writer._pipeline):
            writer._write_oldest()
        change(writer)
        writer.finish()
    return sink.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda w: setattr(w, "_records", 4),
        lambda w: setattr(w, "_record_frames", 2),
        lambda w: setattr(w, "_chunks", 4),
        lambda w: setattr(w, "_plain_bytes", 1),
        lambda w: setattr(w, "_stored_bytes", 1),
        lambda w: setattr(w, "_position", w._position + 1),
        lambda w: w._index._open.clear(),
        lambda w: w._index._open.extend(b"more"),
        lambda w: w._index._open.reverse(),
        lambda w: w._put_frame(FrameType.INDEX, b"another", 7, 0),
    ],
)
def test_an_end_that_does_not_fit(change: Callable[[ImageWriter], None]) -> None:
    read_all(forged(lambda writer: None))
    data = forged(change)
    with pytest.raises(ImageCorruptError, match=r"its end frame says|the index does not match"):
        read_all(data)


@pytest.mark.parametrize("size", [0, 87, 89])
def test_an_end_of_another_size(size: int) -> None:
    data = IMAGE[:HEADER_SIZE] + frame(FrameType.END, b"", sequence=0, meta=bytes(size))
    with pytest.raises(ImageCorruptError, match="end frame has a meta"):
        read_all(data)


def test_the_index_alone_survives_every_flipped_bit() -> None:
    """Reading from the end never raises anything but ImageError, nor reads outside."""
    for bit in range(0, len(IMAGE) * 8, 5):
        damaged = bytearray(IMAGE)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            index = ImageIndex(io.BytesIO(bytes(damaged)))
            assert len(list(index.for_each_entry())) == 3
        except ImageError:
            pass
