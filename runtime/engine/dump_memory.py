"""Memory out: private pages and shared objects as chunks of the image.

The kernel is asked once per address space which pages exist. They are cut at fixed addresses,
multiples of the chunk size, so that the same memory gives the same chunks next time, and read in
one ``process_vm_readv`` a chunk by the image writer's worker threads.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from formats.records.memory import AddressSpace, Backing, SharedMemory
from formats.statefile import CHUNK_SIZE, ImageWriter
from runtime.engine.mappings import MAP_PRIVATE
from runtime.engine.ranges import PageRun, Range, intersection, without
from runtime.kernel import pagemap, process_vm

Run = tuple[int, int]  # (start, length) in bytes
Fill = Callable[[memoryview], None]

PROT_READ = 1
_NEAR = 4 << 20  # bytes between two parts that one look covers


def write_private_pages(
    writer: ImageWriter, object_id: int, pid: int, pages: Iterable[PageRun], *, gently: bool
) -> Iterator[int]:
    """Add private pages of an address space; yields the bytes added so far.

    Args:
        writer: Its chunks' offsets are addresses.
        object_id: Object that the chunks belong to.
        pid: A process of this address space, stopped, in our own pid namespace.
        pages: From `private_runs`, or a part of it.
        gently: Leave pages shared that are shared since a fork. process_vm_readv(2) pins what it
            reads, and for that the kernel gives the task a copy of its own (FAULT_FLAG_UNSHARE,
            include/linux/mm_types.h); /proc/PID/mem does not, but copies twice.
    """
    total = 0
    for offset, runs, readable in windows(iter(pages)):
        fill = _reader(pid, runs) if readable and not gently else forced_reader(pid, runs)
        writer.add_chunk(object_id, offset, runs, fill)
        total += sum(length for _, length in runs)
        yield total


def _reader(pid: int, runs: list[Run]) -> Fill:
    return lambda buffer: process_vm.read_runs(pid, runs, buffer)


def forced_reader(pid: int, runs: list[Run]) -> Fill:
    """What fills a chunk through /proc/PID/mem, which may read what the task may not."""

    def fill(buffer: memoryview) -> None:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            read_exactly(memory.fileno(), runs, buffer)

    return fill


def read_exactly(fd: int, runs: Sequence[Run], buffer: memoryview) -> None:
    """Fill *buffer* with the byte ranges *runs* of a file, one after the other."""
    done = 0
    for start, length in runs:
        end = done + length
        while done < end:
            at = start + length - (end - done)
            count = os.preadv(fd, [buffer[done:end]], at)
            if count == 0:
                raise OSError(errno.EIO, f"nothing to read at byte {at} of a file")
            done += count


def private_runs(
    pid: int,
    space: AddressSpace,
    within: Sequence[Range] | None = None,
    but: Sequence[Range] = (),
) -> Iterator[PageRun]:
    """The existing pages in private mappings, by address.

    Args:
        pid: A process with this address space, stopped.
        space: Its record.
        within: Only these parts, ascending.
        but: Not these parts, ascending; they are not even looked at.
    """
    # To the page map a guard page is something swapped out.
    guards = [(start, start + length) for vma in space.vmas for start, length in vma.guards]
    private = [
        vma for vma in space.vmas if vma.flags & MAP_PRIVATE and vma.backing is not Backing.VDSO
    ]
    for anonymous, vmas in itertools.groupby(
        private, lambda vma: vma.backing is Backing.ANONYMOUS and not vma.huge_page_size
    ):
        mapped: Iterable[PageRun] = (
            (vma.start, vma.end, bool(vma.protection & PROT_READ)) for vma in vmas
        )
        if within is not None:
            mapped = intersection(mapped, within)
        mapped = list(without(mapped, but))
        yield from without(_existing_runs(pid, mapped, anonymous), guards)


def _existing_runs(pid: int, private: Sequence[PageRun], anonymous: bool) -> Iterator[PageRun]:
    first = 0
    while first < len(private):
        last = first
        while last + 1 < len(private) and private[last + 1][0] - private[last][1] <= _NEAR:
            last += 1
        yield from _existing_in(pid, private[first : last + 1], anonymous)
        first = last + 1


def _existing_in(pid: int, private: Sequence[PageRun], anonymous: bool) -> Iterator[PageRun]:
    """The existing pages in parts that lie near to each other."""
    index = 0
    for start, end in pagemap.for_each_run(pid, private[0][0], private[-1][1], anonymous=anonymous):
        while index < len(private) and private[index][1] <= start:
            index += 1
        at = index
        while at < len(private) and private[at][0] < end:
            low, high, readable = private[at]
            at += 1
            yield max(low, start), min(high, end), readable


def windows(runs: Iterator[tuple[int, int, bool]]) -> Iterator[tuple[int, list[Run], bool]]:
    """Cut runs at multiples of the chunk size and collect those of one window."""
    window, all_readable = -1, True
    collected: list[Run] = []
    for first, end, readable in runs:
        start = first
        while start < end:
            offset = start - start % CHUNK_SIZE
            if offset != window:
                if collected:
                    yield window, collected, all_readable
                window, collected, all_readable = offset, [], True
            stop = min(end, offset + CHUNK_SIZE)
            collected.append((start, stop - start))
            all_readable = all_readable and readable
            start = stop
    if collected:
        yield window, collected, all_readable


def write_file_pages(
    writer: ImageWriter, object_id: int, fd: int, size: int, but: Sequence[Range] = ()
) -> int:
    """Add the content of an open file, holes left out; returns the bytes added.

    Args:
        fd: Readable; its offset is not touched.
        size: Bytes, as fstat(2) says.
        but: What is to be left out, ascending.
    """
    total = 0
    for offset, runs, _ in windows(without(data_runs(fd, size), but)):
        writer.add_chunk(object_id, offset, runs, _file_reader(os.dup(fd), runs))
        total += sum(length for _, length in runs)
    return total


def _file_reader(fd: int, runs: list[Run]) -> Fill:
    def fill(buffer: memoryview) -> None:
        try:
            read_exactly(fd, runs, buffer)
        finally:
            os.close(fd)

    return fill


def data_runs(fd: int, size: int) -> Iterator[PageRun]:
    """The parts of an open file that are no holes."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if end <= start:
            return
        yield start, end, True
        position = end


def write_shared_memory(
    writer: ImageWriter, shared: SharedMemory, fd: int, but: Sequence[Range] = ()
) -> int:
    """Add the pages of a shared-memory object but some; returns the bytes added."""
    return write_file_pages(writer, shared.object_id, fd, shared.size, but)
