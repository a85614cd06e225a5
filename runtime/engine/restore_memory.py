"""Address spaces in: mappings at their old places, then their contents.

Anonymous memory is never a private mapping of the image: MADV_DONTNEED would bring the saved bytes
back where a program relies on zeros. Pages are copied into fresh mappings instead.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence

from formats.records.memory import AddressSpace, Backing, Vma
from formats.statefile import Chunk
from runtime.engine.borrowing import find_hole
from runtime.engine.dump_memory import read_exactly
from runtime.engine.mappings import (
    MAP_ANONYMOUS,
    MAP_FIXED_NOREPLACE,
    MAP_LOCKED,
    MAP_PRIVATE,
    MAP_SHARED,
)
from runtime.engine.new_task import MREMAP_MOVE_FIXED, PARK_SIZE, NewTask
from runtime.engine.remote import SCRATCH_SIZE, Batch
from runtime.errors import RestoreError
from runtime.kernel import process_vm
from runtime.kernel.prctl import PR_SET_MM, PR_SET_MM_MAP, PR_SET_VMA, PR_SET_VMA_ANON_NAME

PROT_READ, PROT_WRITE = 1, 2
_NO_FD = 2**64 - 1
# struct prctl_mm_map, include/uapi/linux/prctl.h
_MM_MAP = struct.Struct("<11QQII")
MLOCK_ONFAULT = 1
MADV_GUARD_INSTALL = 102  # include/uapi/asm-generic/mman-common.h
SEALS_A_BATCH = 256
_OTHERWISE = (Backing.VDSO, Backing.SEGMENT, Backing.AIO)  # mapped by others


def common_hole(spaces: list[AddressSpace]) -> int:
    """A place for the scratch area and the parked vDSO that is free in every address space."""
    taken = [(vma.start, vma.end) for space in spaces for vma in space.vmas]
    try:
        return find_hole(taken, SCRATCH_SIZE + PARK_SIZE)
    except LookupError as exc:
        raise RestoreError(f"{exc} in the image's processes", reason="address-space") from exc


def map_address_space(
    task: NewTask,
    space: AddressSpace,
    number_of: Callable[[Vma], int],
    exe_fd: int,
    *,
    is_done: Callable[[Vma], bool] = lambda _: False,
) -> None:
    """Map everything, writable where contents are to come, and declare the layout.

    Args:
        task: The process's leader, with nothing mapped but scratch and vDSO.
        space: What to map.
        number_of: The task's descriptor for the object behind a mapping.
        exe_fd: The task's descriptor for the program.
        is_done: Tells of a mapping that it is there already.
    """
    batch = Batch()
    for vma in space.vmas:
        if vma.backing not in _OTHERWISE and not is_done(vma):
            fd = None if vma.backing is Backing.ANONYMOUS else number_of(vma)
            map_part(batch, vma, vma.start, vma.end, fd)
        if batch.full:
            task.do(batch)
            batch = Batch()
    _declare(batch, task, space, exe_fd)
    task.do(batch)


def map_part(batch: Batch, vma: Vma, start: int, end: int, fd: int | None) -> None:
    """Map ``[start, end)`` of a mapping.

    Args:
        batch: Gets the calls.
        vma: What to map.
        start: Byte address.
        end: Byte address.
        fd: The task's descriptor for what is behind it; None for anonymous memory.
    """
    flags = (vma.flags & ~MAP_LOCKED) | MAP_FIXED_NOREPLACE
    offset = 0
    if fd is not None:
        flags &= ~MAP_ANONYMOUS
        offset = vma.offset + start - vma.start
    size = end - start
    number = _NO_FD if fd is None else fd
    batch.call("mmap", start, size, first_protection(vma), flags, number, offset)
    for advice in vma.advice:
        batch.call("madvise", start, size, advice)
    if vma.name and fd is None:
        name_vma(batch, start, size, vma.name)


def name_vma(batch: Batch, start: int, size: int, name: str) -> None:
    """Name a part of anonymous memory; an empty name takes its name away."""
    address = os.fsencode(name) + b"\0" if name else 0
    # Without CONFIG_ANON_VMA_NAME it fails; a name is only for people.
    batch.call("prctl", PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, size, address, may_fail=True)


def first_protection(vma: Vma) -> int:
    """The protection that a mapping has while its contents are written."""
    if vma.flags & MAP_PRIVATE and (vma.accounted or vma.huge_page_size):
        return vma.protection | PROT_WRITE
    return vma.protection


def _declare(batch: Batch, task: NewTask, space: AddressSpace, exe_fd: int) -> None:
    layout = space.layout
    auxv = batch.data(space.auxv)
    mm_map = _MM_MAP.pack(
        layout.start_code,
        layout.end_code,
        layout.start_data,
        layout.end_data,
        layout.start_brk,
        layout.brk,
        layout.start_stack,
        layout.arg_start,
        layout.arg_end,
        layout.env_start,
        layout.env_end,
        task.address(auxv),
        len(space.auxv),
        exe_fd,
    )
    batch.call("prctl", PR_SET_MM, PR_SET_MM_MAP, mm_map, len(mm_map), 0)


def finish_address_space(task: NewTask, space: AddressSpace, hole: int) -> None:
    """Give mappings their final protection, lock what was locked, and place the vDSO."""
    batch = Batch()
    for vma in space.vmas:
        size = vma.end - vma.start
        if vma.backing is Backing.VDSO:
            continue
        if first_protection(vma) != vma.protection:
            batch.call("mprotect", vma.start, size, vma.protection)
        for start, length in vma.guards:
            batch.call("madvise", start, length, MADV_GUARD_INSTALL)
        if vma.flags & MAP_LOCKED:
            # A mapping that cannot be read is locked all the same, with an error.
            how = MLOCK_ONFAULT if vma.lock_on_fault else 0
            batch.call("mlock2", vma.start, size, how, may_fail=not vma.protection & PROT_READ)
        if batch.full:
            task.do(batch)
            batch = Batch()
    _place_vdso(batch, space, hole)
    if space.locked_future:
        batch.call("mlockall", space.locked_future)
    if len(batch):
        task.do(batch)
    # Nothing can be changed about a mapping after this.
    sealed = [vma for vma in space.vmas if vma.sealed]
    for first in range(0, len(sealed), SEALS_A_BATCH):
        batch = Batch()
        for vma in sealed[first : first + SEALS_A_BATCH]:
            batch.call("mseal", vma.start, vma.end - vma.start, 0)
        task.do(batch)


def _place_vdso(batch: Batch, space: AddressSpace, hole: int) -> None:
    at = hole + SCRATCH_SIZE
    wanted = [vma for vma in space.vmas if vma.backing is Backing.VDSO]
    if not wanted:
        batch.call("munmap", at, PARK_SIZE)
    for vma in wanted:
        size = vma.end - vma.start
        batch.call("mremap", at, size, size, MREMAP_MOVE_FIXED, vma.start)
        at += size


class MemoryWriter:
    """Puts chunks of private pages into the address spaces they belong to.

    Args:
        spaces: Address space and a process (in our pid namespace) that has it, by object id.
    """

    def __init__(self, spaces: dict[int, tuple[AddressSpace, int]]) -> None:
        self._pids = {mm_id: pid for mm_id, (_, pid) in spaces.items()}
        self._unwritable = {
            mm_id: [
                (vma.start, vma.end)
                for vma in space.vmas
                if not first_protection(vma) & PROT_WRITE and not vma.flags & MAP_SHARED
            ]
            for mm_id, (space, _) in spaces.items()
        }

    def owns(self, object_id: int) -> bool:
        """Whether an object is one of the address spaces."""
        return object_id in self._pids

    def write(self, chunk: Chunk, data: memoryview) -> None:
        """Write one chunk; called from several threads at once."""
        self._write(chunk.object_id, chunk.runs, data)

    def put(self, object_id: int, run: tuple[int, int], data: memoryview) -> None:
        """Write one (start, length) range; called from several threads at once."""
        self._write(object_id, (run,), data)

    def copy(self, source: int, target: int, runs: Sequence[tuple[int, int]]) -> None:
        """Copy (start, length) byte ranges from one address space into another."""
        buffer = memoryview(bytearray(sum(length for _, length in runs)))
        with open(f"/proc/{self._pids[source]}/mem", "rb", buffering=0) as memory:
            read_exactly(memory.fileno(), runs, buffer)
        self._write(target, runs, buffer)

    def _write(self, mm_id: int, runs: Sequence[tuple[int, int]], data: memoryview) -> None:
        pid = self._pids[mm_id]
        low, high = runs[0][0], runs[-1][0] + runs[-1][1]
        if any(low < end and start < high for start, end in self._unwritable[mm_id]):
            self._write_forced(pid, runs, data)
        else:
            process_vm.write_runs(pid, runs, data)

    @staticmethod
    def _write_forced(pid: int, runs: Sequence[tuple[int, int]], data: memoryview) -> None:
        """Through /proc/PID/mem, which may write what the task may not."""
        fd = os.open(f"/proc/{pid}/mem", os.O_WRONLY | os.O_CLOEXEC)
        try:
            done = 0
            for start, length in runs:
                end = done + length
                while done < end:
                    done += os.pwrite(fd, data[done:end], start + length - (end - done))
        finally:
            os.close(fd)
