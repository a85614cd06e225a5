"""System V semaphore sets, with the adjustments that are due when a process ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from formats.records.ipc import SemaphoreSet
from formats.records.task import Process
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.remote import Batch
from runtime.engine.sandbox.ipc_objects import actor, create, inside_pid, permissions, set_owner
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.engine.semaphore_undo import HIGHEST, LOWEST, operations_for
from runtime.errors import RestoreError
from runtime.kernel import sysvipc
from runtime.kernel.visit import visiting_path

SAVED = (
    (
        "System V semaphores",
        "sets under their ids and keys, values, owner, mode, last operators, adjustments on exit "
        "(SEM_UNDO)",
    ),
)


class SemaphoreSets(SandboxKind):
    """Sets of semaphores."""

    name = "System V semaphores"
    namespace = "ipc"
    records = (SemaphoreSet,)

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[SemaphoreSet]:
        with visiting_path(scope.path, "ipc"):
            for row in sysvipc.objects("sem"):
                number, count = row["semid"], row["nsems"]
                pids = sysvipc.semaphore_pids(number, count)
                yield SemaphoreSet(
                    ns_id=scope.ns_id,
                    permissions=permissions(scope, row, "semid"),
                    values=sysvipc.semaphore_values(number, count),
                    pids=tuple(inside_pid(context, pid) for pid in pids),
                    operated=row["otime"] != 0,
                )

    def finish(self, files: RestoredFiles, place: Place, records: Sequence[SemaphoreSet]) -> None:
        for record in records:
            fits = all(0 <= value <= sysvipc.SEMVMX for value in record.values)
            if len(record.pids) != len(record.values) or not fits:
                raise RestoreError(
                    f"semaphore set {record.permissions.number} has {len(record.values)} values "
                    f"of {len(record.pids)} semaphores, or some that no semaphore has",
                    reason="image-inconsistent",
                )
            create(files, place, "sem", record.permissions, 0, (len(record.values),))
            self._set_values(files, place, record)
            batch = Batch()
            set_owner(batch, "sem", record.permissions)
            if len(batch):
                place.task.run(batch)
        self._restore_undo(files, place, {r.permissions.number: r for r in records})
        for record in records:
            if record.operated:
                self._operate(files, place, record)

    @staticmethod
    def _set_values(files: RestoredFiles, place: Place, record: SemaphoreSet) -> None:
        """The values, each set by the process that is to be known for it."""
        by_pid: dict[int, list[int]] = {}
        for index, (value, pid) in enumerate(zip(record.values, record.pids, strict=True)):
            if value or pid:
                by_pid.setdefault(pid, []).append(index)
        for pid, indices in by_pid.items():
            task = actor(files, place, pid)
            for some in _parts(indices, 1000):
                batch = Batch()
                for index in some:
                    value = record.values[index]
                    batch.call("semctl", record.permissions.number, index, sysvipc.SETVAL, value)
                task.run(batch)

    @staticmethod
    def _restore_undo(files: RestoredFiles, place: Place, sets: dict[int, SemaphoreSet]) -> None:
        """Adjustments on exit; after the values, for setting a value forgets them."""
        for process in files.all_of(Process):
            for undo in process.semaphore_undo:
                if undo.ns_id != place.ns_id:
                    continue
                owner = sets.get(undo.number)
                known = owner is not None and 0 <= undo.index < len(owner.values)
                if owner is None or not known or not LOWEST <= undo.adjustment <= HIGHEST:
                    raise RestoreError(
                        f"process {process.pid} has an adjustment of {undo.adjustment} for "
                        f"semaphore {undo.index} of set {undo.number}, which cannot be",
                        reason="image-inconsistent",
                    )
                task = actor(files, place, process.pid)
                value = owner.values[undo.index]
                for operations in operations_for(undo.index, value, undo.adjustment):
                    batch = Batch()
                    count = len(operations) // sysvipc.SEMBUF.size
                    batch.call("semop", undo.number, operations, count)
                    task.run(batch)

    @staticmethod
    def _operate(files: RestoredFiles, place: Place, record: SemaphoreSet) -> None:
        """Up and down again: the set counts as operated on, by those who last did so.

        Programs wait for ``sem_otime`` to tell a set that somebody has initialized.
        """
        for index, pid in enumerate(record.pids):
            if not pid and any(record.pids):
                continue
            task = actor(files, place, pid)
            step = 1 if record.values[index] < sysvipc.SEMVMX else -1
            operations = b"".join(sysvipc.SEMBUF.pack(index, by, 0) for by in (step, -step))
            batch = Batch()
            batch.call("semop", record.permissions.number, operations, 2)
            task.run(batch)
            if not pid:
                return


def _parts(items: list[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
