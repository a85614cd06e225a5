"""Attachments of System V segments: shmat(2), so that they count and shmdt(2) finds them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from itertools import groupby

from formats.records.ipc import SharedSegment
from formats.records.memory import AddressSpace, Backing, SharedMemory, Vma
from runtime.engine.borrowing import find_hole
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.new_task import MREMAP_MOVE_FIXED, PARK_SIZE, NewTask
from runtime.engine.remote import SCRATCH_SIZE, Batch
from runtime.errors import RestoreError
from runtime.kernel.proc_maps import PROT_EXEC
from runtime.kernel.sysvipc import SHM_EXEC, SHM_RDONLY

_HUGEST = 1 << 30  # bytes of the largest huge page


def attach_segments(task: NewTask, space: AddressSpace, files: RestoredFiles) -> None:
    """Attach every segment of an address space, after everything else has been mapped.

    shmat(2) takes a segment as a whole. What has since been unmapped, moved or protected in pieces
    is still one attachment, which shmdt(2) ends as one: its pieces share a base address. So it is
    attached elsewhere, its pieces are moved to their places, and the rest is unmapped.
    """
    vmas = [vma for vma in space.vmas if vma.backing is Backing.SEGMENT]
    if not vmas:
        return
    taken = [(vma.start, vma.end) for vma in space.vmas]
    taken.append((task.scratch, task.scratch + SCRATCH_SIZE + PARK_SIZE))
    batch = Batch()
    for pieces in _attachments(vmas):
        segment = files.record_of(SharedSegment, pieces[0].object_id)
        memory = files.record_of(SharedMemory, segment.object_id)
        size = memory.size + -memory.size % (memory.huge_page_size or mmap.PAGESIZE)
        _attach(batch, segment.permissions.number, size, _free(taken, size), pieces)
        if batch.full:
            task.do(batch)
            batch = Batch()
    task.do(batch)


def _free(taken: list[tuple[int, int]], size: int) -> int:
    """A free place for a segment, at a multiple of any huge page's size."""
    try:
        place = find_hole(taken, size + _HUGEST)
    except LookupError as exc:
        raise RestoreError(f"{exc} for a segment", reason="address-space") from exc
    return place + -place % _HUGEST


def _attachments(vmas: list[Vma]) -> Iterator[list[Vma]]:
    def attachment(vma: Vma) -> tuple[int, int, bool]:
        return vma.object_id, vma.start - vma.offset, vma.read_only

    for _, pieces in groupby(sorted(vmas, key=attachment), attachment):
        yield list(pieces)


def _attach(batch: Batch, number: int, size: int, at: int, pieces: list[Vma]) -> None:
    flags = SHM_RDONLY * pieces[0].read_only
    if any(vma.protection & PROT_EXEC for vma in pieces):
        flags |= SHM_EXEC
    batch.call("shmat", number, at, flags)
    for vma in pieces:
        length = vma.end - vma.start
        if not 0 <= vma.offset < size:
            raise RestoreError(
                f"segment {number} is attached from its byte {vma.offset} on, it has {size}",
                reason="image-inconsistent",
            )
        held = min(length, size - vma.offset)
        source = at + vma.offset
        batch.call("mremap", source, held, length, MREMAP_MOVE_FIXED, vma.start)
        batch.call("mprotect", vma.start, length, vma.protection)
        for advice in vma.advice:
            batch.call("madvise", vma.start, length, advice)
    batch.call("munmap", at, size)
