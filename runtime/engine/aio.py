"""Asynchronous I/O contexts: io_setup(2), and the ring that each shares with its program.

The kernel keeps its own copy of the ring's tail, which nothing but a completed request moves. So a
restore makes a context anew, moves its ring to the old address, and lets reads of /dev/null
complete until the tail is where it was; then the events that were not yet taken are written over
theirs.

Requests that are under way cannot be seen, nor could they be made again. They end by themselves,
for they belong to the kernel and not to the stopped task: the dump waits for the ring to rest.
"""

from __future__ import annotations

import os
import struct
import time

from formats.records.aio import AioRing
from formats.records.memory import AddressSpace, Backing, Vma
from runtime.engine.context import DumpContext
from runtime.engine.dump_tasks import ask
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.new_task import MREMAP_MOVE_FIXED, NewTask
from runtime.engine.remote import Batch
from runtime.errors import RestoreError
from runtime.kernel import process_vm
from runtime.kernel.proc_maps import Mapping

SAVED = (("asynchronous I/O", "contexts of io_setup(2) with events that are not yet taken"),)
REFUSED = (("aio-in-flight", "asynchronous I/O that does not come to rest; try again"),)

# struct aio_ring, fs/aio.c: id, nr, head, tail, magic, compat_features, incompat_features, size
_RING = struct.Struct("<8I")
_MAGIC = 0xA10A10A1
_EVENT_SIZE = 32  # struct io_event, include/uapi/linux/aio_abi.h
_IOCB = struct.Struct("<QIiHhIQQqQII")  # struct iocb, likewise
_IOCB_CMD_PREAD = 0
_AT_ONCE = 64
_REST_S, _PATIENCE_S = 0.02, 2.0
PAGE = 4096
PROT_RW = 3
MAP_SHARED_ANONYMOUS_FIXED = 0x100021


def is_ring(mapping: Mapping) -> bool:
    """Whether a mapping is the ring of a context."""
    return mapping.path.startswith("/[aio]")


# Dump


def dump_ring(context: DumpContext, files: FileTable, pid: int, mapping: Mapping) -> int:
    """Add the record of a ring; returns its object id."""
    size = mapping.end - mapping.start
    content = process_vm.read(pid, mapping.start, size)
    deadline = time.monotonic() + _PATIENCE_S
    # The one thing that can be waited for here is time; once, for all rings had it together.
    files.once("aio-rest", lambda: time.sleep(_REST_S))
    while True:
        before, content = content, process_vm.read(pid, mapping.start, size)
        if content == before:
            break
        if time.monotonic() > deadline:
            context.refuse(
                "aio-in-flight",
                context.subject(pid, f"AIO context {mapping.start:#x}"),
                "has requests under way that do not end; try again",
            )
            break
        time.sleep(_REST_S)
    record = AioRing(context.new_id(), content, _is_live(context, pid, mapping.start))
    files.records.append(record)
    return record.object_id


def _is_live(context: DumpContext, pid: int, address: int) -> bool:
    batch = Batch()
    events = batch.out(_EVENT_SIZE)
    found = batch.call("io_getevents", address, 0, 0, events, 0, may_fail=True)
    return ask(context, context.live[pid], batch)[found] == 0


# Restore


def restore_rings(task: NewTask, space: AddressSpace, files: RestoredFiles) -> None:
    """Make the contexts of a process, after everything else has been mapped."""
    rings = [vma for vma in space.vmas if vma.backing is Backing.AIO]
    if not rings:
        return
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        (number,) = task.receive(files.channel, [null])
    finally:
        os.close(null)
    for vma in rings:
        record = files.record_of(AioRing, vma.object_id)
        if len(record.content) != vma.end - vma.start:
            raise _inconsistent(vma)
        if record.live:
            _restore_ring(task, vma, record.content, number)
        else:
            _restore_copy(task, vma, record.content)
    task.call("close", number)


def _restore_copy(task: NewTask, vma: Vma, content: bytes) -> None:
    size = len(content)
    task.call("mmap", vma.start, size, PROT_RW, MAP_SHARED_ANONYMOUS_FIXED, 2**64 - 1, 0)
    process_vm.write(task.pid, vma.start, content)


def _restore_ring(task: NewTask, vma: Vma, content: bytes, null: int) -> None:
    size = vma.end - vma.start
    _, count, head, tail, magic, _, _, header = _RING.unpack_from(content)
    room = (size - _RING.size) // _EVENT_SIZE
    if magic != _MAGIC or header != _RING.size or count != room or max(head, tail) >= count:
        raise _inconsistent(vma)
    batch = Batch()
    context = batch.data(bytes(8))
    # The kernel takes twice as many as asked for, and two more, and fills up the page.
    batch.call("io_setup", (room - 2) // 2, context)
    made = int.from_bytes(task.do(batch).read(context), "little")
    fresh = _RING.unpack(process_vm.read(task.pid, made, _RING.size))
    if fresh[1] != count:
        raise RestoreError(
            f"an AIO context of {count} events gets {fresh[1]} on this host", reason="aio-ring"
        )
    task.call("mremap", made, size, size, MREMAP_MOVE_FIXED, vma.start)
    waiting = (tail - head) % count
    # What waits must not have been taken, or the context would give out too many requests.
    done = tail - waiting if tail >= waiting else tail - waiting + count
    _complete(task, vma.start, null, done, take=True)
    _complete(task, vma.start, null, waiting, take=False)
    # All but the number and the size, which the kernel looks at, and the tail, which is right.
    process_vm.write(task.pid, vma.start + 8, content[8:12])
    process_vm.write(task.pid, vma.start + _RING.size, content[_RING.size :])


def _complete(task: NewTask, ring: int, null: int, count: int, *, take: bool) -> None:
    """Let *count* requests complete, and take their events or leave them."""
    while count:
        many = min(count, _AT_ONCE)
        batch = Batch()
        iocb = batch.data(_IOCB.pack(0, 0, 0, _IOCB_CMD_PREAD, 0, null, ring, 0, 0, 0, 0, 0))
        pointers = batch.data(struct.pack(f"<{many}Q", *[task.address(iocb)] * many))
        events = batch.out(_AT_ONCE * _EVENT_SIZE)
        submitted = batch.call("io_submit", ring, many, pointers)
        if take:
            batch.call("io_getevents", ring, many, many, events, 0)
        if task.do(batch)[submitted] != many:
            raise RestoreError("an AIO context takes fewer requests than it should")
        count -= many


def _inconsistent(vma: Vma) -> RestoreError:
    return RestoreError(
        f"the AIO ring at {vma.start:#x} contradicts itself", reason="image-inconsistent"
    )
