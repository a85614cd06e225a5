"""signalfd(2)."""

from __future__ import annotations

from formats.records.files import SignalFd
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.kernel.anonfd import signalfd


class SignalFds(Kind):
    """Signals as reads; the queue is the reading task's own."""

    name = "signalfd"
    record = SignalFd

    def matches(self, table: FileTable, look: Look) -> bool:
        return look.link == "anon_inode:[signalfd]"

    def dump(self, table: FileTable, look: Look, file_id: int) -> SignalFd:
        return SignalFd(
            file_id=file_id,
            flags=look.flags,
            mask=int(look.info.one("sigmask"), 16),
            owner=table.owner(look),
        )

    def restore(self, files: RestoredFiles, record: SignalFd) -> int:
        return signalfd(record.mask)
