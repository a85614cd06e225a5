"""eventfd(2)."""

from __future__ import annotations

import os

from formats.records.files import EventFd
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable


class EventFds(Kind):
    """An event counter."""

    name = "eventfd"
    record = EventFd

    def matches(self, table: FileTable, look: Look) -> bool:
        return look.link.startswith("anon_inode:[eventfd")

    def dump(self, table: FileTable, look: Look, file_id: int) -> EventFd:
        return EventFd(
            file_id=file_id,
            flags=look.flags,
            count=int(look.info.one("eventfd-count"), 16),
            semaphore=look.info.get("eventfd-semaphore", ["0"])[0] == "1",
            owner=table.owner(look),
        )

    def restore(self, files: RestoredFiles, record: EventFd) -> int:
        flags = os.EFD_CLOEXEC | (os.EFD_SEMAPHORE if record.semaphore else 0)
        fd = os.eventfd(0, flags)
        # The initial value is only 32 bits wide; the counter is 64.
        if record.count:
            os.eventfd_write(fd, record.count)
        return fd
