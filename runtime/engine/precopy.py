"""Pre-copy, the source's side: memory leaves in rounds while the program runs.

Each round is an image without records (formats.staged). Its objects are address spaces under the
numbers that tracking has given them, and shared-memory objects. The first round holds all memory,
each further one what has been written to since the one before. The dump at the end then leaves out
what was staged and is still there as it was.

What is shared between processes is not tracked but compared: it may be written to by a process
that has mapped it for a moment only, or by write(2). A piece counts as staged while its digest is
that of the bytes that were sent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from formats.frames import digest_of
from runtime.engine.api import Freezer
from runtime.engine.dump_memory import Fill, Run, data_runs, read_exactly, windows
from runtime.engine.ranges import PageRun, Range, common, gaps, size_of, union
from runtime.engine.tracking import WORTHWHILE, TrackedSpace, WriteTracking, untouched
from runtime.kernel import pagemap, proc_maps

log = logging.getLogger(__name__)

PIECE = 64 << 10
"""Bytes of shared memory that are compared, and sent again, as one."""
_SHARED_NUMBERS = 1 << 32  # above those of address spaces
_THREADS = 2
_HUGE = "/anon_hugepage"


class Ended(Protocol):
    """What a round's image is known by when it is complete: `formats.manifest.ImageSummary`."""

    @property
    def root(self) -> bytes:
        """Its root digest."""


class RoundWriter(Protocol):
    """Where a round goes: an ImageWriter, or what takes its chunks alone."""

    def add_chunk(self, object_id: int, offset: int, runs: Sequence[Run], fill: Fill, /) -> None:
        """As `formats.writer.ImageWriter.add_chunk`."""

    def finish(self) -> Ended:
        """Have all of it where it belongs."""


@dataclass(slots=True)
class Round:
    """What a round has sent.

    Attributes:
        number: From 1 on.
        pages: Pages that it sent.
        memory_bytes: The same in bytes.
        scan_ns: Looking for them, in nanoseconds; most of it while the program ran.
        freezes: How often the container stood still for a moment.
        settled: Whether all of it may be relied on; else it is sent once more.
        elapsed_ns: From its begin to its last byte, in nanoseconds.
        since_ns: From the begin of the round before; 0 in the first round.
    """

    number: int
    pages: int = 0
    memory_bytes: int = 0
    scan_ns: int = 0
    freezes: int = 0
    settled: bool = True
    elapsed_ns: int = 0
    since_ns: int = 0


@dataclass(slots=True)
class _SharedObject:
    """Shared memory under way; pieces by number: their data runs, and the digest of these."""

    number: int
    pieces: dict[int, tuple[tuple[Run, ...], bytes]] = field(default_factory=dict)


class PreCopy:
    """The rounds of one migration.

    Args:
        cgroups: The container's.
        container_id: For messages.

    Attributes:
        tracking: What tells which pages were written to.
        roots: Root digests of the rounds so far.
    """

    _least = WORTHWHILE

    def __init__(self, cgroups: Freezer, container_id: str) -> None:
        self._cgroups = cgroups
        self.tracking = WriteTracking(cgroups, container_id, least=self._least)
        self.roots: list[bytes] = []
        self._staged: dict[int, list[Range]] = {}  # by the number of an address space
        self._again: dict[int, list[Range]] = {}  # sent, but not to be relied on
        self._shared: dict[tuple[int, int], _SharedObject] = {}
        self._began = 0

    def close(self) -> None:
        """Take all tracking back. Idempotent."""
        self.tracking.close()

    def round(self, writer: RoundWriter) -> Round:
        """Send what has been written to since the last round.

        Args:
            writer: Of the round's image; this finishes it.

        Raises:
            CheckpointError, RefusedError: The container cannot be stopped for a moment.
            OSError: What the writer's sink raises.
        """
        done = Round(len(self.roots) + 1)
        began = time.monotonic_ns()
        done.since_ns = began - self._began if self._began else 0
        self._began = began
        freezes = self.tracking.freezes
        self.tracking.follow()
        found = [
            (space, self._whole(space.number, self._news(space)))
            for space in self.tracking.spaces.values()
        ]
        done.settled = self.tracking.settle()
        done.scan_ns = time.monotonic_ns() - began
        done.freezes = self.tracking.freezes - freezes
        failed: dict[int, list[Range]] = {space.number: [] for space, _ in found}
        for space, runs in found:
            self._send(writer, space, runs, failed[space.number])
            done.memory_bytes += size_of(runs)
        done.memory_bytes += self._send_shared(writer)
        self.roots.append(writer.finish().root)
        for space, runs in found:
            staged = union(self._staged.get(space.number, []), runs)
            gone = union(sorted(failed[space.number]), [])
            self._staged[space.number] = list(gaps(staged, gone)) if gone else staged
            if not done.settled:
                self._again[space.number] = runs
        done.pages = done.memory_bytes // pagemap.PAGE_SIZE
        done.elapsed_ns = time.monotonic_ns() - began
        return done

    def _news(self, space: TrackedSpace) -> list[Range]:
        return union(space.written(rearm=True), self._again.pop(space.number, []))

    def _whole(self, number: int, runs: list[Range]) -> list[Range]:
        """What has to be sent when *runs* of an address space were written to."""
        return runs

    def left(self) -> int:
        """About how many bytes are to be sent, if the next round, or the end, came now."""
        self.tracking.refresh()
        spaces = list(self.tracking.spaces.values())
        tracked = sum(size_of(space.written(rearm=False)) for space in spaces)
        again = sum(size_of(runs) for runs in self._again.values())
        return tracked + again + self._left_shared()

    def _left_shared(self) -> int:
        left = 0
        for key, fd in self._open_shared():
            known = self._shared.get(key)
            try:
                for _, runs, _ in windows(_until_cut(data_runs(fd, os.fstat(fd).st_size))):
                    left += sum(
                        sum(length for _, length in parts)
                        for number, parts in _pieces(runs).items()
                        if known is None or not _same(known, fd, number, parts)
                    )
            finally:
                os.close(fd)
        return left

    def _send(
        self, writer: RoundWriter, space: TrackedSpace, runs: Sequence[Range], failed: list[Range]
    ) -> None:
        for offset, parts, _ in windows((start, end, True) for start, end in runs):
            writer.add_chunk(space.number, offset, parts, _live_reader(space.memory, parts, failed))

    # Shared memory

    def _send_shared(self, writer: RoundWriter) -> int:
        """Send the pieces of shared memory that differ from what was sent; returns bytes."""
        sent = 0
        for key, fd in self._open_shared():
            try:
                known = self._shared.get(key)
                if known is None:
                    number = _SHARED_NUMBERS + len(self._shared)
                    known = self._shared[key] = _SharedObject(number)
                sent += self._send_object(writer, known, fd)
            finally:
                os.close(fd)
        return sent

    def _send_object(self, writer: RoundWriter, known: _SharedObject, fd: int) -> int:
        sent = 0
        size = os.fstat(fd).st_size
        for offset, runs, _ in windows(_until_cut(data_runs(fd, size))):
            pieces = _pieces(runs)
            if known.pieces:
                pieces = {n: parts for n, parts in pieces.items() if not _same(known, fd, n, parts)}
            if pieces:
                parts = [run for piece in pieces.values() for run in piece]
                writer.add_chunk(
                    known.number, offset, parts, _piece_reader(os.dup(fd), pieces, known)
                )
                sent += sum(length for _, length in parts)
        return sent

    def _open_shared(self) -> Iterator[tuple[tuple[int, int], int]]:
        """Each larger object of shared memory that a process has mapped, open for reading."""
        seen: set[tuple[int, int]] = set()
        for pid in self._cgroups.pids():
            try:
                mapped = proc_maps.lines(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
            for mapping in mapped:
                key = (os.makedev(*mapping.device), mapping.inode)
                if not _is_shared_memory(mapping) or key in seen:
                    continue
                seen.add(key)
                with contextlib.suppress(OSError):  # it may be gone, with its process
                    path = f"/proc/{pid}/map_files/{mapping.map_file}"
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    status = os.fstat(fd)
                    if status.st_size < WORTHWHILE:
                        os.close(fd)
                        continue
                    yield (status.st_dev, status.st_ino), fd

    # The end, with every task stopped

    def look_again(self) -> None:
        """Called when every task has stopped, before the dump looks at them."""
        self.tracking.refresh()

    def kept(self, space: TrackedSpace, pid: int) -> list[Range]:
        """The private pages of an address space that were staged and are as they were.

        Args:
            space: Of the process.
            pid: A process. If it has executed another program, nothing of it is tracked.
        """
        if space.tainted:
            return []
        kept = common(untouched(pid), self._staged.get(space.number, []))
        return list(gaps(kept, self._again.get(space.number, [])))

    def shared_number(self, key: tuple[int, int]) -> int:
        """The number of a shared object by device and inode; 0 if none of it was sent."""
        known = self._shared.get(key)
        return 0 if known is None else known.number

    def kept_shared(self, key: tuple[int, int], path: str) -> list[Range]:
        """What was staged of a shared object, and is equal still.

        Args:
            key: Its device and inode.
            path: To open it by.
        """
        known = self._shared.get(key)
        if known is None:
            return []
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            pieces: dict[int, list[Run]] = {}
            for _, runs, _ in windows(data_runs(fd, os.fstat(fd).st_size)):
                pieces |= _pieces(runs)
            with ThreadPoolExecutor(_THREADS) as pool:
                equal = pool.map(lambda item: _same(known, fd, *item), pieces.items())
                kept = [parts for parts, same in zip(pieces.values(), equal, strict=True) if same]
        finally:
            os.close(fd)
        ranges = ((start, start + length) for parts in kept for start, length in parts)
        page = pagemap.PAGE_SIZE  # the last page of an object may be filled in part
        whole = ((start, end - end % page) for start, end in ranges)
        return union([(start, end) for start, end in whole if start < end], [])


def _is_shared_memory(mapping: proc_maps.Mapping) -> bool:
    return mapping.shared and mapping.path.startswith(
        ("/memfd:", "[anon_shmem:", "/dev/zero (deleted)")
    )


def _pieces(runs: Sequence[Run]) -> dict[int, list[Run]]:
    """Runs by the piece that they lie in."""
    found: dict[int, list[Run]] = {}
    for first, length in runs:
        start, end = first, first + length
        while start < end:
            stop = min(end, (start // PIECE + 1) * PIECE)
            found.setdefault(start // PIECE, []).append((start, stop - start))
            start = stop
    return found


def _same(known: _SharedObject, fd: int, number: int, runs: Sequence[Run]) -> bool:
    """Whether a piece is as it was sent."""
    sent = known.pieces.get(number)
    if sent is None or sent[0] != tuple(runs):
        return False
    buffer = memoryview(bytearray(sum(length for _, length in runs)))
    try:
        read_exactly(fd, runs, buffer)
    except OSError:
        return False
    return digest_of(buffer) == sent[1]


def _until_cut(runs: Iterator[PageRun]) -> Iterator[PageRun]:
    """The data of a file that may be cut short meanwhile."""
    with contextlib.suppress(OSError):
        yield from runs


def _live_reader(memory: int, runs: list[Run], failed: list[Range]) -> Fill:
    """For memory of a running program: what is not there any more is zeros, and noted.

    /proc/PID/mem, for process_vm_readv would give a process pages of its own in place of those
    that it shares since a fork, and does not read what the task may not.
    """

    def fill(buffer: memoryview) -> None:
        try:
            read_exactly(memory, runs, buffer)
        except OSError:
            _read_what_is_left(memory, runs, buffer, failed)

    return fill


def _read_what_is_left(
    memory: int, runs: list[Run], buffer: memoryview, failed: list[Range]
) -> None:
    done = 0
    for first, length in runs:
        for start in range(first, first + length, pagemap.PAGE_SIZE):
            page = buffer[done : done + pagemap.PAGE_SIZE]
            done += pagemap.PAGE_SIZE
            try:
                read_exactly(memory, [(start, pagemap.PAGE_SIZE)], page)
            except OSError:
                page[:] = bytes(pagemap.PAGE_SIZE)
                failed.append((start, start + pagemap.PAGE_SIZE))


def _piece_reader(fd: int, pieces: dict[int, list[Run]], known: _SharedObject) -> Fill:
    """Reads pieces of shared memory, and notes what of them was sent."""

    def fill(buffer: memoryview) -> None:
        done = 0
        try:
            for number, runs in pieces.items():
                part = buffer[done : done + sum(length for _, length in runs)]
                done += len(part)
                known.pieces.pop(number, None)
                try:
                    read_exactly(fd, runs, part)
                except OSError:  # cut short meanwhile
                    part[:] = bytes(len(part))
                    continue
                known.pieces[number] = (tuple(runs), digest_of(part))
        finally:
            os.close(fd)

    return fill
