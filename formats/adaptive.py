"""How hard to compress what leaves over a line: as hard as the line leaves time for.

A slow line waits for bytes, so time spent on making them fewer is won twice; a fast one must not
wait for the compressor. Both are measured while the image is written: how long the sink takes for
its bytes (a pipe that is full makes its writer wait), and how much processor time the threads need
for theirs. When the line is what everything waits for, one chunk is compressed at the next level,
too, which says what that level costs and gains with this content; it is used if it gains
something and the threads can still keep up with half of the processors. When everything waits for
the threads, the level goes down.
"""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

LEVELS = (1, 3, 5, 7, 9, 12)
LOOK_BYTES = 16 << 20  # plain bytes between two looks
FIRST_LOOK_BYTES = 4 << 20
MAX_PAUSE = 16  # looks between two trials of a level that gains nothing
GAINS = 1.03  # a further level must shrink the bytes by so much
SHARE = 0.5  # of the processors: the rest is for encryption, and for the program itself


class Trial(NamedTuple):
    """A chunk compressed at the next level: its sizes and the processor time that it took."""

    plain_size: int
    stored_size: int
    stored_before: int  # at the level in use
    busy_ns: int


class AdaptiveLevel:
    """Chooses the level for the chunks of one line, over as many images as go through it.

    Args:
        workers: Threads that compress.

    Attributes:
        level: For the next chunk.
        link_bytes_per_s: Stored bytes that the line took; 0 as long as little was sent.
        compress_bytes_per_s: Plain bytes that the threads could compress at *level*; the same.
    """

    def __init__(self, workers: int) -> None:
        self.level = LEVELS[0]
        self.link_bytes_per_s = 0.0
        self.compress_bytes_per_s = 0.0
        self._threads = max(1, min(workers, len(os.sched_getaffinity(0))))
        self._lock = threading.Lock()
        self._next_look = FIRST_LOOK_BYTES
        self._plain = self._stored = self._busy_ns = 0  # by the threads, since the last look
        self._sent = self._write_ns = 0  # by the writer, the same
        self._all_sent = self._all_write_ns = 0
        self._line = 0.0  # bytes per second at the last look
        self._trial_due = False
        self._pause, self._paused = 1, 0
        self._by_level: dict[int, int] = {}

    # In the threads

    def compressed(self, level: int, plain_size: int, stored_size: int, busy_ns: int) -> None:
        """A thread has compressed a chunk in so much processor time."""
        with self._lock:
            self._by_level[level] = self._by_level.get(level, 0) + plain_size
            if level == self.level:  # others were begun before the last look
                self._plain += plain_size
                self._stored += stored_size
                self._busy_ns += busy_ns

    def trial_level(self) -> int | None:
        """A level to try with the chunk at hand, once; None when there is none to be tried."""
        if not self._trial_due:
            return None
        with self._lock:
            due, self._trial_due = self._trial_due, False
            return self._above() if due else None

    def tried(self, trial: Trial) -> None:
        """What came of a trial."""
        with self._lock:
            above = self._above()
            if above is None:
                return
            ratio = trial.plain_size / max(trial.stored_size, 1)
            gains = trial.stored_before >= GAINS * trial.stored_size
            compressing = trial.plain_size * self._threads / max(trial.busy_ns, 1) * 1e9
            if gains and SHARE * compressing >= self._line * ratio:
                self._use(above)
                self._pause = 1
            else:
                self._pause = min(2 * self._pause, MAX_PAUSE)
            self._paused = 0

    # In the writer

    def wrote(self, size: int, elapsed_ns: int) -> None:
        """The sink has taken so many bytes in so much time."""
        self._sent += size
        self._write_ns += elapsed_ns
        if self._plain >= self._next_look:
            with self._lock:
                self._look()

    @property
    def main_level(self) -> int:
        """The level that most bytes were compressed at."""
        with self._lock:
            counts = self._by_level or {self.level: 0}
            return max(counts, key=lambda level: counts[level])

    def _look(self) -> None:
        """Compare line and threads; the caller holds the lock."""
        ratio = self._plain / max(self._stored, 1)
        self.compress_bytes_per_s = self._plain * self._threads / max(self._busy_ns, 1) * 1e9
        self._line = self._sent / max(self._write_ns, 1) * 1e9
        self._all_sent += self._sent
        self._all_write_ns += self._write_ns
        self.link_bytes_per_s = self._all_sent / max(self._all_write_ns, 1) * 1e9
        wanted = self._line * ratio  # plain bytes that the line could take
        if self.compress_bytes_per_s < wanted and self.level != LEVELS[0]:
            self._use(LEVELS[LEVELS.index(self.level) - 1])
            return
        self._paused += 1
        line_waits = SHARE * self.compress_bytes_per_s > wanted
        self._trial_due = line_waits and self._paused >= self._pause and self._above() is not None
        self._begin_anew(LOOK_BYTES)

    def _above(self) -> int | None:
        at = LEVELS.index(self.level) + 1
        return LEVELS[at] if at < len(LEVELS) else None

    def _use(self, level: int) -> None:
        self.level = level
        self._trial_due = False
        self._begin_anew(FIRST_LOOK_BYTES)

    def _begin_anew(self, next_look: int) -> None:
        self._plain = self._stored = self._busy_ns = self._sent = self._write_ns = 0
        self._next_look = next_look
