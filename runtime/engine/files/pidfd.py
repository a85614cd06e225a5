"""pidfd_open(2): descriptors of processes and threads, dead ones too."""

from __future__ import annotations

import os

from formats.records.pidfd import PidFd
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.helpers import end_helper, make_helper
from runtime.errors import RestoreError
from runtime.kernel.pidfd import open_pidfd
from runtime.kernel.pidfd_info import exit_status

SAVED = (("process descriptors", "of processes, threads, zombies, and of the dead"),)
REFUSED = (("pidfd-outside", "a descriptor of a process outside the container"),)

PIDFD_THREAD = os.O_EXCL  # include/uapi/linux/pidfd.h


class PidFds(Kind):
    """A descriptor of a process."""

    name = "pidfd"
    record = PidFd

    def matches(self, table: FileTable, look: Look) -> bool:
        # pidfs shows "pidfd:[INODE]" in some versions (6.9 and 6.10).
        return look.link == "anon_inode:[pidfd]" or look.link.startswith("pidfd:[")

    def dump(self, table: FileTable, look: Look, file_id: int) -> PidFd | None:
        pid = int(look.info.one("Pid"))
        flags = look.flags & os.O_NONBLOCK | look.info.flags & PIDFD_THREAD
        if pid == -1:
            return PidFd(
                file_id=file_id,
                flags=flags,
                pid=0,
                identity=look.stat.st_ino,
                exit_status=_exit_status(look),
                owner=table.owner(look),
            )
        inside = table.context.ns_pids.get(pid)
        if inside is None:
            table.refuse(look, "pidfd-outside", "is of a process outside the container")
            return None
        return PidFd(file_id=file_id, flags=flags, pid=inside, owner=table.owner(look))

    def restore(self, files: RestoredFiles, record: PidFd) -> int:
        flags = record.flags & (os.O_NONBLOCK | PIDFD_THREAD)
        if not record.pid:
            return files.once(("dead", record.identity), lambda: _Dead(files, record)).open(flags)
        try:
            tid = files.tids[record.pid]
        except KeyError:
            raise RestoreError(
                f"a descriptor of process {record.pid}, which the image lacks",
                reason="image-inconsistent",
            ) from None
        return open_pidfd(tid, flags)

    def fill(self, files: RestoredFiles, record: PidFd) -> None:
        if not record.pid:
            files.once(("dead", record.identity), lambda: _Dead(files, record)).bury()


class _Dead:
    """A task that lives until every descriptor of it has been made."""

    def __init__(self, files: RestoredFiles, record: PidFd) -> None:
        self._files = files
        self._status = record.exit_status
        self._task = make_helper(files)
        self._buried = False

    def open(self, flags: int) -> int:
        return open_pidfd(self._task.tid, flags)

    def bury(self) -> None:
        if not self._buried:
            self._buried = True
            end_helper(self._files, self._task, self._status)


def _exit_status(look: Look) -> int:
    fd = look.duplicate()
    try:
        return exit_status(fd) or 0
    finally:
        os.close(fd)
