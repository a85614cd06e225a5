"""POSIX message queue descriptors; `runtime.engine.sandbox.ipc_mqueue` has the queues."""

from __future__ import annotations

import os
import stat

from formats.records.ipc import QueueFile
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.mounts import DELETED, open_inside
from runtime.engine.files.restored import RestoredFiles, open_again
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.ipc_mqueue import dump_queue
from runtime.errors import RestoreError


class Queues(Kind):
    """An open message queue."""

    name = "POSIX message queues"
    rank = 40
    record = QueueFile

    def matches(self, table: FileTable, look: Look) -> bool:
        regular = stat.S_ISREG(look.stat.st_mode) and not look.flags & os.O_PATH
        return regular and look.stat.st_dev in table.queue_scopes

    def dump(self, table: FileTable, look: Look, file_id: int) -> QueueFile | None:
        scope = table.queue_scopes[look.stat.st_dev]
        path = look.link.removesuffix(DELETED)
        name = os.path.basename(path)
        # Those that have a name are known by now.
        found = dump_queue(table.context, table, scope, look.proc_path, name, linked=False)
        table.records += found
        return QueueFile(
            file_id=file_id,
            queue_id=table.posix_queues[look.stat.st_dev, look.stat.st_ino],
            flags=look.flags,
            path=path if path != f"/{name}" and path == look.link else "",
            owner=table.owner(look),
        )

    def restore(self, files: RestoredFiles, record: QueueFile) -> int:
        if record.path:
            return open_inside(files.root, record.path, record.flags)
        if record.queue_id not in files.posix_queues:
            raise RestoreError(
                f"the image has a descriptor of message queue {record.queue_id}, which it lacks",
                reason="image-inconsistent",
            )
        return open_again(files.posix_queues[record.queue_id], record.flags)
