"""Names of chunks that memory had: replaced piece by piece, forgotten, kept as bytes."""

from __future__ import annotations

import io
import os

import pytest

from formats.external import PIECE_SIZE, Body, ExternalImageReader, ExternalImageWriter
from formats.frames import digest_of
from formats.known_chunks import SMALLEST, KnownChunks, rounded
from formats.pipeline import Piece

WINDOW = 1 << 20


class Kept:
    """Chunks in memory."""

    def __init__(self) -> None:
        self.bodies: dict[bytes, Body] = {}
        self.looked: list[bytes] = []

    def name_of(self, plain: bytes | bytearray | memoryview, /) -> bytes:
        return digest_of(plain)

    def has(self, chunk_id: bytes, /) -> bool:
        return chunk_id in self.bodies

    def put(self, piece: Piece, /) -> None:
        if not piece.known:
            self.bodies[piece.chunk_id] = Body(bytes(piece.body), piece.compressed)
        assert piece.chunk_id in self.bodies

    def expect(self, chunk_ids: object, /, *, background: bool) -> None:
        pass

    def fetch(self, chunk_id: bytes, /) -> Body:
        return self.bodies[chunk_id]

    def settle(self) -> None:
        pass


def put(writer: ExternalImageWriter, memory: bytearray, *runs: tuple[int, int]) -> None:
    """Put ahead runs of a memory that begins at the second window."""

    def fill(buffer: memoryview) -> None:
        done = 0
        for start, length in runs:
            at = start - WINDOW
            buffer[done : done + length] = memory[at : at + length]
            done += length

    writer.put_ahead(7, runs[0][0] - runs[0][0] % WINDOW, runs, fill)


def contents(image: io.BytesIO, kept: Kept) -> dict[int, bytes]:
    """What an image holds, by address of each run."""
    image.seek(0)
    reader = ExternalImageReader(image, kept, name="image")
    found: dict[int, bytes] = {}
    for chunk in reader.chunks():
        assert chunk.object_id == 3
        plain = bytes(chunk.unpack())
        for start, length in chunk.runs:
            found[start], plain = plain[:length], plain[length:]
    reader.finish()
    return found


def test_what_was_put_ahead_becomes_part_of_the_image() -> None:
    assert PIECE_SIZE == SMALLEST
    memory = bytearray(os.urandom(2 * WINDOW))
    kept, image = Kept(), io.BytesIO()
    with ExternalImageWriter(image, kept) as writer:
        put(writer, memory, (WINDOW, WINDOW))
        put(writer, memory, (2 * WINDOW, 5 * 4096))
        writer.end_ahead()
        memory[9 * 4096 : 10 * 4096] = os.urandom(4096)
        writer.known.drop(7, [(WINDOW + 9 * 4096, WINDOW + 10 * 4096)])
        assert writer.known.runs(7) == [
            (WINDOW, WINDOW + 8 * 4096),
            (WINDOW + 10 * 4096, 2 * WINDOW + 5 * 4096),
        ]
        put(writer, memory, (WINDOW + 8 * 4096, 8192))
        assert writer.add_known(3, 7) == WINDOW + 5 * 4096 - 8192  # not known yet
        writer.end_ahead()
        assert writer.known.runs(7) == [(WINDOW, 2 * WINDOW + 5 * 4096)]
    with ExternalImageWriter(image := io.BytesIO(), kept) as second:
        raw = writer.known.pack()
        second.adopt(KnownChunks.unpack(raw))
        assert second.known.pack() == raw
        assert second.add_known(3, 7) == WINDOW + 5 * 4096
        assert second.add_known(3, 8) == 0
        assert second.finish().chunks == 128 + 3
    found = contents(image, kept)
    assert found == {
        WINDOW: bytes(memory[:WINDOW]),
        2 * WINDOW: bytes(memory[WINDOW : WINDOW + 5 * 4096]),
    }


def test_a_window_whose_chunks_were_pruned_is_forgotten() -> None:
    memory = bytearray(os.urandom(2 * WINDOW))
    kept = Kept()
    with ExternalImageWriter(io.BytesIO(), kept) as writer:
        put(writer, memory, (WINDOW, WINDOW))
        put(writer, memory, (2 * WINDOW, WINDOW))
        writer.end_ahead()
        known = writer.known
    del kept.bodies[digest_of(memory[WINDOW : WINDOW + PIECE_SIZE])]
    with ExternalImageWriter(io.BytesIO(), kept) as second:
        second.adopt(known)
        assert second.known.runs(7) == [(WINDOW, 2 * WINDOW)]
        second.known.forget(7)
        assert second.known.numbers() == [] and len(second.known) == 0


def test_a_gone_window_and_holes() -> None:
    memory = bytearray(os.urandom(WINDOW))
    with ExternalImageWriter(io.BytesIO(), Kept()) as writer:
        put(writer, memory, (WINDOW + 4096, 4096), (WINDOW + 3 * 4096, 2 * 4096))
        writer.end_ahead()
        known = writer.known
        assert known.runs(7) == [
            (WINDOW + 4096, WINDOW + 8192),
            (WINDOW + 3 * 4096, WINDOW + 5 * 4096),
        ]
        known.drop(7, [(0, WINDOW), (WINDOW + 2 * 4096, WINDOW + 3 * 4096), (3 * WINDOW, 1 << 40)])
        # The second piece is touched although nothing of it was there.
        assert known.runs(7) == [
            (WINDOW + 4096, WINDOW + 8192),
            (WINDOW + 4 * 4096, WINDOW + 5 * 4096),
        ]
        known.drop(7, [(0, 3 * WINDOW)])
        assert known.runs(7) == [] and len(known) == 0


@pytest.mark.parametrize("cut", [1, 27, 28, 40, 75])
def test_bytes_that_end_too_early(cut: int) -> None:
    known = KnownChunks()
    piece = Piece(WINDOW, [(WINDOW, 4096)])
    piece.chunk_id = bytes(32)
    known.put(1, WINDOW, SMALLEST, [piece])
    known.settle()
    raw = known.pack()
    assert len(raw) == 28 + 16 + 32
    with pytest.raises(ValueError, match="end inside"):
        KnownChunks.unpack(raw[:cut])


def test_rounded() -> None:
    assert rounded([], 8) == []
    assert rounded([(1, 2), (7, 9), (30, 32), (33, 40)], 8) == [(0, 16), (24, 40)]
    assert rounded([(8, 16)], 8) == [(8, 16)]
