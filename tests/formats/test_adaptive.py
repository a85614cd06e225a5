"""How hard an image is compressed follows from the line that it leaves over."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import pytest

from formats.adaptive import LEVELS, AdaptiveLevel, Trial
from formats.records.image import Image
from formats.statefile import CHUNK_SIZE, ImageWriter, verify_image

MIB = 1 << 20


@dataclass
class Content:
    """What compressing it costs and gains: at each level, bytes per second and ratio."""

    rates: tuple[float, ...]
    ratios: tuple[float, ...]

    def stored(self, level: int) -> int:
        return int(MIB / self.ratios[LEVELS.index(level)])

    def busy_ns(self, level: int) -> int:
        return int(MIB / self.rates[LEVELS.index(level)] * 1e9)


TEXT = Content(
    rates=tuple(MIB * rate for rate in (400, 200, 100, 60, 40, 20)),
    ratios=(2.5, 3.0, 3.3, 3.5, 3.65, 3.8),
)
NOISE = Content(rates=TEXT.rates, ratios=(1.0,) * len(LEVELS))


def _send(adaptive: AdaptiveLevel, content: Content, line: float, mebibytes: int) -> None:
    """Go through an image as its writer does, by a clock of our own."""
    for _ in range(mebibytes):
        level = adaptive.level
        adaptive.compressed(level, MIB, content.stored(level), content.busy_ns(level))
        trial = adaptive.trial_level()
        if trial is not None:
            adaptive.tried(
                Trial(MIB, content.stored(trial), content.stored(level), content.busy_ns(trial))
            )
        adaptive.wrote(content.stored(level), int(content.stored(level) / line * 1e9))


def test_a_slow_line_is_worth_more_work() -> None:
    adaptive = AdaptiveLevel(1)
    _send(adaptive, TEXT, 8 * MIB, 256)
    # The last level that half a processor has time for: a further one could not keep up.
    assert adaptive.level == 7
    assert adaptive.link_bytes_per_s == pytest.approx(8 * MIB, rel=0.01)
    _send(adaptive, TEXT, 1 * MIB, 256)
    assert adaptive.level == LEVELS[-1] and adaptive.main_level == 7


def test_a_fast_line_does_not_wait() -> None:
    adaptive = AdaptiveLevel(1)
    _send(adaptive, TEXT, 1000 * MIB, 256)
    assert adaptive.level == adaptive.main_level == LEVELS[0]


def test_what_does_not_shrink_is_not_worked_on() -> None:
    adaptive = AdaptiveLevel(1)
    _send(adaptive, NOISE, 1 * MIB, 256)
    assert adaptive.level == LEVELS[0]


def test_a_line_that_becomes_fast_lowers_the_level() -> None:
    adaptive = AdaptiveLevel(1)
    adaptive.level = LEVELS[-1]
    _send(adaptive, TEXT, 1000 * MIB, 256)
    assert adaptive.level == LEVELS[0]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_writer_measures_line_and_threads(workers: int) -> None:
    adaptive = AdaptiveLevel(workers)
    noise, sink = os.urandom(MIB), io.BytesIO()

    def fill(view: memoryview) -> None:
        view[:] = noise

    with ImageWriter(sink, adaptive=adaptive, workers=workers) as writer:
        writer.add_record(Image("job", 1, "0.1", {}, {}))
        for number in range(12):
            start = number * CHUNK_SIZE
            writer.add_chunk(1, start, [(start, CHUNK_SIZE)], fill)
        writer.finish()
    sink.seek(0)
    assert verify_image(sink).chunks == 12
    assert adaptive.link_bytes_per_s > 0
    assert adaptive.compress_bytes_per_s > 0
