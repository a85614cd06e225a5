"""How hard an image is compressed follows from the line that it leaves over."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from formats.adaptive import LEVELS, AdaptiveLevel
from formats.records.image import Image
from formats.statefile import CHUNK_SIZE, ImageWriter, verify_image
from migrate.rate_limit import RateLimit
from migrate.transport import Buffer

SOURCES = b"".join(path.read_bytes() for path in sorted(Path("/usr/lib/python3").rglob("*.py")))
MIB = 1 << 20


class _Sink(io.BytesIO):
    """Takes bytes at a limited rate, or at any."""

    def __init__(self, bytes_per_s: float | None) -> None:
        super().__init__()
        put: Callable[[Buffer], object] = super().write
        self._put = put if bytes_per_s is None else RateLimit(put, bytes_per_s).write

    def write(self, data: Buffer, /) -> int:  # type: ignore[override]  # as Sink has it
        self._put(data)
        return len(data)


def _image(sink: _Sink, adaptive: AdaptiveLevel, content: bytes, mebibytes: int) -> None:
    with ImageWriter(sink, adaptive=adaptive) as writer:
        writer.add_record(Image("job", 1, "0.1", {}, {}))
        for number in range(mebibytes):
            at = number * 7919 * 64 % (len(content) - MIB)
            piece = memoryview(content)[at : at + MIB]

            def fill(view: memoryview, piece: memoryview = piece) -> None:
                view[:] = piece

            start = number * CHUNK_SIZE
            writer.add_chunk(1, start, [(start, CHUNK_SIZE)], fill)
        writer.finish()
    sink.seek(0)
    assert verify_image(sink).chunks == mebibytes


def test_a_slow_line_is_worth_more_work() -> None:
    adaptive = AdaptiveLevel(2)
    _image(_Sink(8 * MIB), adaptive, SOURCES, 32)
    assert adaptive.level > LEVELS[0]
    assert 4 * MIB < adaptive.link_bytes_per_s < 16 * MIB
    # The next image over the same line goes on from there.
    level = adaptive.level
    _image(_Sink(8 * MIB), adaptive, SOURCES, 8)
    assert adaptive.level >= level and adaptive.main_level >= LEVELS[0]


def test_a_fast_line_does_not_wait() -> None:
    adaptive = AdaptiveLevel(2)
    _image(_Sink(None), adaptive, SOURCES, 48)
    assert adaptive.level == adaptive.main_level == LEVELS[0]


def test_what_does_not_shrink_is_not_worked_on() -> None:
    noise = os.urandom(4 * MIB)
    adaptive = AdaptiveLevel(2)
    _image(_Sink(32 * MIB), adaptive, noise, 24)
    assert adaptive.level == LEVELS[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_line_that_becomes_fast_lowers_the_level(workers: int) -> None:
    adaptive = AdaptiveLevel(workers)
    adaptive.level = LEVELS[-1]
    _image(_Sink(None), adaptive, SOURCES, 10)
    assert adaptive.level < LEVELS[-1]
