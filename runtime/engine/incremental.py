"""Snapshots that are taken while the program runs, and that need not read what has not changed.

The same rounds as those of a live migration (precopy.py), into the store that the snapshot goes to:
all memory is read while the program runs, then what it has written to meanwhile; what is left is
read during the freeze. The names of chunks stay known (formats.known_chunks), so the list of the
snapshot's chunks is put together from them afterwards. A program that goes on stands still for two
looks at its page tables, and for what little it has written to since the last round.

During the freeze all that was written to is armed anew, so each mark that is found later is of a
write behind this snapshot. Whoever keeps the tracking and the names lets the next snapshot begin
where this one has ended.

Only private anonymous memory is tracked. The rest of the private memory of the same process is
read during the freeze each time; so is what a store needs to have a chunk as a whole. Memory that
is shared since a fork, and all that must not rely on tracking, is dumped as it always is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from formats.external import ExternalImageWriter
from formats.known_chunks import KnownChunks, rounded
from formats.records.memory import AddressSpace
from runtime.engine.api import Freezer
from runtime.engine.arch import current as arch
from runtime.engine.dump_memory import Fill, Run, forced_reader, private_runs, windows
from runtime.engine.precopy import PreCopy, Round
from runtime.engine.ranges import Range, common, gaps, size_of, union
from runtime.engine.tracking import TrackedSpace
from runtime.kernel import pagemap

log = logging.getLogger(__name__)

MAX_ROUNDS = 5
ENOUGH = 1 << 20  # bytes that may be left for the freeze, if it is a question of another round
SHRINKS = 0.5  # a round must leave less than this part of what the one before has left
LEAST = 4 << 20
"""Bytes of anonymous memory from which on rounds are worth it; others are read in a moment."""


class _Root(NamedTuple):
    root: bytes = b""


class _Ahead:
    """A round's chunks alone, kept for an image that comes later."""

    def __init__(self, writer: ExternalImageWriter) -> None:
        self._writer = writer

    def add_chunk(self, object_id: int, offset: int, runs: Sequence[Run], fill: Fill, /) -> None:
        self._writer.put_ahead(object_id, offset, runs, fill)

    def finish(self) -> _Root:
        self._writer.end_ahead()
        return _Root()


@dataclass(slots=True)
class Part:
    """An address space whose memory was read ahead, when the program has stopped.

    Attributes:
        space: How it is tracked.
        kept: What is known, and as it was.
        rest: All other content: to be read now.
    """

    space: TrackedSpace
    kept: list[Range]
    rest: list[Range]

    @property
    def rest_bytes(self) -> int:
        """How much is to be read."""
        return size_of(self.rest)


class Incremental(PreCopy):
    """The rounds of one snapshot.

    Args:
        cgroups: The container's.
        container_id: For messages.
        writer: Of the snapshot; whoever gives it also finishes it.

    Attributes:
        rounds: Those so far.
        used: The address spaces whose tracking can be relied on for the next snapshot.
    """

    _least = LEAST

    def __init__(self, cgroups: Freezer, container_id: str, writer: ExternalImageWriter) -> None:
        super().__init__(cgroups, container_id)
        self._writer = writer
        self._known_runs: dict[int, list[Range]] = {}
        self.rounds: list[Round] = []
        self.used: list[TrackedSpace] = []

    def adopt(self, spaces: Iterable[TrackedSpace], known: KnownChunks) -> None:
        """Go on where an earlier snapshot has ended.

        Args:
            spaces: Tracked since then.
            known: The chunks that their memory had at that moment.
        """
        self._writer.adopt(known)
        self.tracking.adopt(spaces)
        for space in self.tracking.spaces.values():
            runs = known.runs(space.number)
            self._staged[space.number] = runs
            # A prune has taken chunks away, or they are another store's.
            quiet = pagemap.unwritten_runs(space.page_map, 0, arch.TASK_SIZE)
            self._again[space.number] = list(gaps(quiet, runs))

    def run(self) -> None:
        """Read all memory in rounds while the program runs, until hardly any is left.

        Raises:
            CheckpointError, RefusedError: The container cannot be stopped for a moment.
            StoreError, OSError: What the writer raises.
        """
        left = 0
        for _ in range(MAX_ROUNDS):
            self.rounds.append(done := self.round(_Ahead(self._writer)))
            if not self.tracking.spaces:
                break
            before, left = left, self.left()
            log.debug(
                "round %d: %d bytes in %.1f ms, %d bytes are left",
                done.number,
                done.memory_bytes,
                done.elapsed_ns / 1e6,
                left,
            )
            stuck = before > 0 and left > before * SHRINKS
            if done.settled and (left <= ENOUGH or stuck):
                break
        known = self._writer.known
        self._known_runs = {number: known.runs(number) for number in known.numbers()}

    def _whole(self, number: int, runs: list[Range]) -> list[Range]:
        """With all else that is in the same chunks."""
        touched = rounded(runs, self._writer.known.greatest_piece)
        return union(runs, common(self._staged.get(number, []), touched))

    def _left_shared(self) -> int:
        return 0

    def _send_shared(self, writer: object) -> int:
        """Nothing: it is read during the freeze, for it cannot be tracked."""
        return 0

    # With every task stopped

    def part(self, space: TrackedSpace, pid: int, record: AddressSpace) -> Part | None:
        """What of an address space is known, and what is to be read.

        Args:
            space: Its tracking.
            pid: A stopped process that has it.
            record: What the image says of it.

        Returns:
            None when nothing is known: then it is dumped as if there had been no round.
        """
        kept = self.kept(space, pid)
        if not kept:
            return None
        other = [(start, end) for start, end, _ in private_runs(pid, record, but=kept)]
        changed = union(list(gaps(self._known_runs.get(space.number, []), kept)), other)
        touched = rounded(changed, self._writer.known.greatest_piece)
        rest = union(other, common(kept, touched))
        return Part(space, list(gaps(kept, touched)), rest)

    def read(self, part: Part, pid: int, runs: Iterable[Range]) -> None:
        """Read a part of the rest, in the process itself or in a fork of it."""
        for offset, pieces, _ in windows((start, end, True) for start, end in runs):
            fill = forced_reader(pid, pieces)
            self._writer.put_ahead(part.space.number, offset, pieces, fill)

    def pieces_around(self, ranges: Iterable[Range]) -> list[Range]:
        """Ranges, and all else that is in the same chunks."""
        return rounded(ranges, self._writer.known.greatest_piece)

    def arm(self, parts: Iterable[Part]) -> None:
        """Arm everything anew: from now on a mark means a write behind this snapshot."""
        for part in parts:
            for _ in part.space.written(rearm=True):
                pass

    # Afterwards

    def add(self, part: Part, object_id: int) -> int:
        """Make an address space's memory a part of the image; returns bytes.

        Args:
            part: Of which all is read by now.
            object_id: As the records have it.
        """
        began = time.monotonic_ns()
        writer, number = self._writer, part.space.number
        writer.drain()
        writer.known.drop(number, gaps(self._known_runs.get(number, []), part.kept))
        writer.end_ahead()
        size = writer.add_known(object_id, number)
        if not part.space.tainted:
            self.used.append(part.space)
        log.debug("listed %d bytes in %.1f ms", size, (time.monotonic_ns() - began) / 1e6)
        return size

    def known(self) -> KnownChunks:
        """The chunks of the address spaces in `used`, for the next snapshot."""
        known = self._writer.known
        for number in set(known.numbers()) - {space.number for space in self.used}:
            known.forget(number)
        return known
