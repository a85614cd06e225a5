"""What is left for later at a lazy restore, and how the kernel learns of it.

Private anonymous memory waits; all other memory is filled at once: the kernel serves only anonymous
memory and shared objects, and whoever locks memory, or reads it through the kernel at the end of a
thread, counts on its being there.
"""

from __future__ import annotations

import errno
import os
import socket
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from formats.records.memory import AddressSpace, Backing, Vma
from formats.records.task import Process
from formats.statefile import CHUNK_SIZE, Chunk
from runtime.engine.lazy.source import Range
from runtime.engine.mappings import MAP_GROWSDOWN, MAP_LOCKED, MAP_PRIVATE
from runtime.engine.new_task import NewTask
from runtime.engine.ranges import common, gaps
from runtime.engine.remote import Batch
from runtime.kernel import missing_pages
from runtime.kernel.pagemap import PAGE_SIZE
from runtime.kernel.pidfd import get_fd, open_pidfd

_MADV_WIPEONFORK = 18
_UNFIT = MAP_LOCKED | MAP_GROWSDOWN
_TYPE = 0x0F  # MAP_TYPE, include/uapi/linux/mman.h; droppable memory has another one


def can_wait(vma: Vma) -> bool:
    """Whether the content of a mapping may come later."""
    return (
        vma.backing is Backing.ANONYMOUS
        and vma.flags & _TYPE == MAP_PRIVATE
        and not vma.flags & _UNFIT
        and not vma.huge_page_size
        and not vma.sealed
        # A child finds zeros there, not what its parent still waits for.
        and _MADV_WIPEONFORK not in vma.advice
    )


class Deferral:
    """Tells the chunks that may come later.

    Args:
        spaces: The address spaces, by ``mm_id``.
        processes: All of them.
    """

    def __init__(self, spaces: dict[int, AddressSpace], processes: Iterable[Process]) -> None:
        self._ranges = {mm_id: _merged(space) for mm_id, space in spaces.items()}
        self._starts = {mm_id: [start for start, _ in r] for mm_id, r in self._ranges.items()}
        self._last: dict[int, int] = {}
        self._needed: dict[int, set[int]] = {}
        for process in processes:
            windows = self._needed.setdefault(process.mm_id, set())
            for address in _read_at_exit(process):
                windows.add(address // CHUNK_SIZE)

    def __call__(self, chunk: Chunk) -> bool:
        """Whether a chunk may; asked in the order of the image, once for each."""
        ranges = self._ranges.get(chunk.object_id)
        if not ranges or chunk.offset // CHUNK_SIZE in self._needed.get(chunk.object_id, ()):
            return False
        if chunk.runs[0][0] < self._last.get(chunk.object_id, 0):
            return False  # no writer of ours does so
        if not all(self._fits(chunk.object_id, *run) for run in chunk.runs):
            return False
        start, length = chunk.runs[-1]
        self._last[chunk.object_id] = start + length
        return True

    def split(self, object_id: int, runs: Sequence[Range]) -> tuple[list[Range], list[Range]]:
        """For content that is no chunk: what of it may come later, and what must be there."""
        needed = sorted(self._needed.get(object_id, ()))
        windows = [(at * CHUNK_SIZE, (at + 1) * CHUNK_SIZE) for at in needed]
        may_wait = list(gaps(self._ranges.get(object_id, ()), windows))
        return common(runs, may_wait), list(gaps(runs, may_wait))

    def _fits(self, object_id: int, start: int, length: int) -> bool:
        index = bisect_right(self._starts[object_id], start) - 1
        aligned = not (start % PAGE_SIZE or length % PAGE_SIZE)
        return aligned and index >= 0 and start + length <= self._ranges[object_id][index][1]


def _merged(space: AddressSpace) -> list[Range]:
    """Where content may wait; adjacent mappings as one."""
    found: list[Range] = []
    for vma in space.vmas:
        if not can_wait(vma):
            continue
        if found and found[-1][1] == vma.start:
            found[-1] = (found[-1][0], vma.end)
        else:
            found.append((vma.start, vma.end))
    return found


def _read_at_exit(process: Process) -> Iterator[int]:
    """Addresses that the kernel uses when a thread has ended, and can wait for nothing any more."""
    for thread in process.threads:
        yield from (thread.clear_child_tid, thread.robust_list[0])
        if thread.rseq is not None:
            yield thread.rseq.address


def pieces(space: AddressSpace, runs: Sequence[Range]) -> list[Range]:
    """What to register, so that all *runs* are in it: whole mappings.

    A part of a mapping would be one of its own until it is complete, and a program that moves all
    of it meanwhile, as realloc(3) does, would get EFAULT from mremap(2). What of it has no
    content is filled with zeros when it is asked for.
    """
    found, index = [], 0
    for vma in space.vmas:
        while index < len(runs) and runs[index][1] <= vma.start:
            index += 1
        if index < len(runs) and runs[index][0] < vma.end and can_wait(vma):
            found.append((vma.start, vma.end))
    return found


def register_space(
    task: NewTask, channel: socket.socket, space: AddressSpace, runs: Sequence[Range]
) -> int | None:
    """Have an address space wait for contents.

    Args:
        task: A task of it, which makes the descriptor and does not keep it.
        channel: To the task.
        space: Mapped.
        runs: What waits.

    Returns:
        The userfaultfd, ours; None if this kernel does not give the task one: then nothing waits.
    """
    fd = _take_userfaultfd(task, channel)
    if fd is None:
        return None
    try:
        missing_pages.enable(fd)
        for start, end in pieces(space, runs):
            missing_pages.register(fd, start, end)
    except OSError:
        os.close(fd)
        return None
    return fd


def _take_userfaultfd(task: NewTask, channel: socket.socket) -> int | None:
    number = _open_plainly(task)
    if number is None:
        number = _open_by_device(task, channel)
    if number is None:
        return None
    pidfd = open_pidfd(task.pid)
    try:
        return get_fd(pidfd, number)
    finally:
        os.close(pidfd)
        task.call("close", number)


def _open_plainly(task: NewTask) -> int | None:
    batch = Batch()
    result = batch.call("userfaultfd", missing_pages.FLAGS, may_fail=True)
    answer = task.do(batch)[result]
    return answer if answer >= 0 else None


def _open_by_device(task: NewTask, channel: socket.socket) -> int | None:
    """For a task in a user namespace, whose privileges do not count: by ours."""
    try:
        device = os.open(missing_pages.DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENXIO):
            return None
        raise
    try:
        (given,) = task.receive(channel, [device])
    finally:
        os.close(device)
    batch = Batch()
    result = batch.call(
        "ioctl", given, missing_pages.USERFAULTFD_IOC_NEW, missing_pages.FLAGS, may_fail=True
    )
    batch.call("close", given)
    answer = task.do(batch)[result]
    return answer if answer >= 0 else None
