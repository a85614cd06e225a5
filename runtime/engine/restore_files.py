"""The open files of an image: made anew when there are tasks, finished when these have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from formats.records.codec import Record
from runtime.engine.files.flags import restore_flags
from runtime.engine.files.kind import Kind, load_kinds
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.image_records import Records
from runtime.engine.install_files import tables_of
from runtime.engine.restore_threads import RestoredProcess


class FileRestore:
    """Makes and finishes files.

    Args:
        records: Of the image.
        files: Where they are kept until tasks have them.
    """

    def __init__(self, records: Records, files: RestoredFiles) -> None:
        self._records = records
        self._files = files
        self._kinds = {kind.record: kind for kind in load_kinds()}

    def open(self, processes: Sequence[RestoredProcess]) -> None:
        """Make every file that one of these processes has open."""
        files = self._files
        for process in processes:
            for task, _ in tables_of(process):
                files.tracees[task.tid] = task
                files.ns_pids[task.tid] = process.record.pid
            files.tids |= {task.ns_pid: task.tid for task in process.tasks}
        wanted = self._wanted(processes)
        for kind, record in wanted:
            files.fds[record.file_id] = kind.restore(files, record)
        for kind, record in wanted:
            kind.fill(files, record)

    def finish(self) -> None:
        """What files can only be given when every task has its own."""
        last: list[tuple[Kind, Record]] = []
        for record in self._records:
            kind: Kind | None = self._kinds.get(type(record))
            if kind is not None and getattr(record, "file_id", 0) in self._files.fds:
                if kind.own_flags:
                    restore_flags(self._files, record)
                if kind.finishes_last:
                    last.append((kind, record))
                else:
                    kind.finish(self._files, record)
        for kind, record in last:
            kind.finish(self._files, record)

    def _wanted(self, processes: Sequence[RestoredProcess]) -> list[tuple[Kind, Any]]:
        """The files that some process has open, and those that live in one of these."""
        by_id: dict[int, tuple[Kind, Any]] = {}
        for record in self._records:
            kind = self._kinds.get(type(record))
            if kind is not None:
                by_id[getattr(record, "file_id", 0)] = (kind, record)
        pending = [
            descriptor.file_id
            for process in processes
            for _, table in tables_of(process)
            for descriptor in table.descriptors
        ]
        wanted = set()
        while pending:
            file_id = pending.pop()
            if file_id in by_id and file_id not in wanted:
                wanted.add(file_id)
                kind, record = by_id[file_id]
                pending += kind.references(record)
        return [found for file_id, found in by_id.items() if file_id in wanted]
