"""Pid namespaces: the number that was given last, so that numbers do not come again too soon."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from formats.records.sandbox import LastPid
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.last_pid import last_pid, set_last_pid
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope

SAVED = (("pid numbers", "new processes get the numbers that they would have got"),)


class PidNumbers(SandboxKind):
    """Where a pid namespace has come to in counting."""

    name = "pid numbers"
    namespace = "pid"
    records = (LastPid,)
    rank = 90  # whatever a restore makes comes before

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[LastPid]:
        yield LastPid(scope.ns_id, last_pid(scope.pid))

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[LastPid]) -> None:
        pass  # a restore may still need helpers

    def finish(self, files: RestoredFiles, place: Place, records: Sequence[LastPid]) -> None:
        for record in records:
            set_last_pid(place.task.pid, record.last_pid)
