"""System V shared memory: segments, attached or not; `runtime.engine.attachments` maps them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial

from formats.records.ipc import SharedSegment
from formats.records.memory import AddressSpace, Backing, SharedMemory
from formats.records.task import Process
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable, huge_page_size
from runtime.engine.remote import Batch
from runtime.engine.sandbox.ipc_objects import create, inside_pid, permissions, set_owner
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.kernel import sysvipc
from runtime.kernel.proc_maps import Mapping, is_segment, lines
from runtime.kernel.visit import visiting_path

SAVED = (
    (
        "System V shared memory",
        "segments under their ids and keys, content, owner, mode, creator, locked, marked for "
        "destruction, of huge pages; attachments, whole and in pieces, read-only ones too; times "
        "of attaching and changing are those of the restore",
    ),
)
REFUSED = (
    ("ipc-outside", "a shared memory segment that is attached outside of the container too"),
    ("ipc-shm", "a shared memory segment that nobody has attached, with kernel.shm_rmid_forced"),
)
_FORCED = "/proc/sys/kernel/shm_rmid_forced"


class SharedSegments(SandboxKind):
    """Segments of shared memory."""

    name = "System V shared memory"
    namespace = "ipc"
    records = (SharedSegment,)

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[SharedSegment]:
        with visiting_path(scope.path, "ipc"):
            rows = sysvipc.objects("shm")
            if not rows:
                return
            with open(_FORCED) as file:
                forced = file.read().strip() != "0"
        mapped = _attachments(context, scope)
        for row in rows:
            number = row["shmid"]
            where = mapped.get(number, [])
            if row["nattch"] > len(where):
                context.refuse(
                    "ipc-outside",
                    f"shared memory segment {number}",
                    f"is attached {row['nattch']} times, {len(where)} of them in the container",
                )
                continue
            if where:
                pid, mapping = where[0]
                path = f"/proc/{pid}/map_files/{mapping.map_file}"
            elif forced:
                # To look into it is to attach it, and its next detachment would be its last.
                context.refuse(
                    "ipc-shm",
                    f"shared memory segment {number}",
                    "would be destroyed by a look at it (kernel.shm_rmid_forced); attach it",
                )
                continue
            else:
                with visiting_path(scope.path, "ipc"):
                    path = files.keep_open(sysvipc.open_segment(number))
            object_id = context.new_id()
            files.shared[-scope.ns_id, number] = (
                SharedMemory(object_id, row["size"], huge_page_size(path)),
                path,
            )
            files.segments[scope.inode, number] = object_id
            yield SharedSegment(
                ns_id=scope.ns_id,
                permissions=permissions(scope, row, "shmid"),
                object_id=object_id,
                destroyed=bool(row["perms"] & sysvipc.SHM_DEST),
                locked=bool(row["perms"] & sysvipc.SHM_LOCKED),
                creator=inside_pid(context, row["cpid"]),
            )

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[SharedSegment]) -> None:
        for record in records:
            memory = files.record_of(SharedMemory, record.object_id)
            flags = 0
            if memory.huge_page_size:
                bits = memory.huge_page_size.bit_length() - 1
                flags = sysvipc.SHM_HUGETLB | bits << sysvipc.SHM_HUGE_SHIFT
            size = (memory.size,)
            create(files, place, "shm", record.permissions, record.creator, size, flags)
            files.makers[record.object_id] = partial(_open, files, place, record)

    def finish(self, files: RestoredFiles, place: Place, records: Sequence[SharedSegment]) -> None:
        batch = Batch()
        for record in records:
            number = record.permissions.number
            set_owner(batch, "shm", record.permissions)
            if record.locked:
                batch.call("shmctl", number, sysvipc.SHM_LOCK, 0)
            if record.destroyed:
                batch.call("shmctl", number, sysvipc.IPC_RMID, 0)
            if batch.full:
                place.task.run(batch)
                batch = Batch()
        if len(batch):
            place.task.run(batch)


def _attachments(context: DumpContext, scope: Scope) -> dict[int, list[tuple[int, Mapping]]]:
    """Where each segment of a namespace is mapped: a process and its mapping."""
    found: dict[int, list[tuple[int, Mapping]]] = {}
    for pid in context.views:
        segments = [mapping for mapping in lines(pid) if is_segment(mapping)]
        if segments and os.stat(f"/proc/{pid}/ns/ipc").st_ino == scope.inode:
            for mapping in segments:
                found.setdefault(mapping.inode, []).append((pid, mapping))
    return found


def _open(files: RestoredFiles, place: Place, record: SharedSegment) -> int:
    """Our descriptor for the memory of a segment: where it is attached by now, if anywhere."""
    spaces = {space.mm_id: space for space in files.all_of(AddressSpace)}
    mm_of = {process.pid: process.mm_id for process in files.all_of(Process)}
    for pid in files.tracees:
        space = spaces.get(mm_of[files.ns_pids[pid]])
        for vma in space.vmas if space else ():
            if vma.backing is Backing.SEGMENT and vma.object_id == record.object_id:
                path = f"/proc/{pid}/map_files/{vma.start:x}-{vma.end:x}"
                return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    with visiting_path(place.path, "ipc"):
        return sysvipc.open_segment(record.permissions.number)
