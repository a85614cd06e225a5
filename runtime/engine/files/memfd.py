"""memfd_create(2) files and descriptors of shared anonymous memory."""

from __future__ import annotations

import fcntl
import os

from formats.records.files import MemFd
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.mounts import DELETED
from runtime.engine.files.restored import RestoredFiles, open_again
from runtime.engine.files.table import FileTable

SAVED = (
    (
        "memfd",
        "content, seals (also against writing while it is mapped), offsets, several descriptions, "
        "shared between processes and mapped",
    ),
)

REFUSED = (("memfd-secret", "memory that is secret even to the kernel (memfd_secret)"),)

_PREFIX = "/memfd:"
SECRET = "/secretmem"


class MemFds(Kind):
    """Memory as a file."""

    name = "memfd"
    rank = 30
    record = MemFd

    def matches(self, table: FileTable, look: Look) -> bool:
        return look.link.startswith((_PREFIX, SECRET)) and look.link.endswith(DELETED)

    def dump(self, table: FileTable, look: Look, file_id: int) -> MemFd | None:
        if look.link == SECRET + DELETED:
            table.refuse(look, "memfd-secret", "is secret memory, which nobody else can read")
            return None
        fd = look.duplicate()
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        finally:
            os.close(fd)
        return MemFd(
            file_id=file_id,
            object_id=table.shared_memory(look.proc_path),
            name=look.link.removeprefix(_PREFIX).removesuffix(DELETED),
            flags=look.flags,
            position=look.info.position,
            seals=seals,
            mode=look.stat.st_mode & 0o7777,
            owner=table.owner(look),
            uid=look.stat.st_uid,
            gid=look.stat.st_gid,
        )

    def restore(self, files: RestoredFiles, record: MemFd) -> int:
        memory = files.shared_memory(record.object_id, record)
        fd = open_again(memory, record.flags)
        if record.position:
            os.lseek(fd, record.position, os.SEEK_SET)
        return fd

    def finish(self, files: RestoredFiles, record: MemFd) -> None:
        # The content has to be in before a seal forbids writing it.
        fd = files.shared_memory(record.object_id, record)
        missing = record.seals & ~fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        if missing:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, missing)
