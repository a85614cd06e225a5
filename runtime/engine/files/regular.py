"""Files opened by name: regular files, directories, devices, and the files of /proc and /sys."""

from __future__ import annotations

import os
import re
import stat

from formats.records.files import RegularFile
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.locks import dump_locks, restore_locks
from runtime.engine.files.mounts import open_inside
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import DELETED, FileTable
from runtime.errors import RestoreError

SAVED = (
    (
        "files",
        "offsets, modes, append, deleted (also with content), renamed, `O_PATH`, sparse; POSIX,"
        " open-file and `flock` locks",
    ),
    ("directories", "half read: the rest comes, each name once"),
    ("devices", "null, zero, full, random, urandom"),
)
REFUSED = (
    ("fd-device", "device files other than the usual ones, terminals among them"),
    ("file-other-name", "a file that lost the name it was opened by and lives on under another"),
    ("file-deleted", "something removed that is not a regular file"),
)

O_PATH = os.O_PATH

# Character devices without state of their own: null, zero, full, random, urandom
_STATELESS = {(1, minor) for minor in (3, 5, 7, 8, 9)}
_TTY = re.compile(r"/dev/(pts/\d+|tty|ptmx|console|pts/ptmx)$")
_SPECIAL = {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue"}


class Regular(Kind):
    """A regular file, directory or stateless device."""

    name = "regular files, directories, stateless devices"
    rank = 90
    record = RegularFile

    def matches(self, table: FileTable, look: Look) -> bool:
        mode = look.stat.st_mode
        return look.link.startswith("/") and (
            stat.S_ISREG(mode)
            or stat.S_ISDIR(mode)
            or stat.S_ISCHR(mode)
            or bool(look.flags & O_PATH)
        )

    def dump(self, table: FileTable, look: Look, file_id: int) -> RegularFile | None:
        mount = table.mounts.mounts.get(look.info.mount_id)
        mode = look.stat.st_mode
        if stat.S_ISCHR(mode) and not look.flags & O_PATH:
            device = (os.major(look.stat.st_rdev), os.minor(look.stat.st_rdev))
            if device not in _STATELESS:
                what = "a terminal" if _TTY.match(look.link) else f"device {device[0]}:{device[1]}"
                table.refuse(look, "fd-device", f"is {what}, which wherry cannot save")
                return None
        path, deleted = look.link, 0
        if look.stat.st_nlink == 0 or (
            path.endswith(DELETED) and not table.mounts.reaches(path, look.stat)
        ):
            path = path.removesuffix(DELETED)
            if not self._can_carry(table, look):
                return None
            if stat.S_ISREG(mode):
                deleted = table.deleted_file(path, look.proc_path, look.stat)
        elif not table.mounts.reaches(path, look.stat):
            table.refuse(look, "file-outside", "is not reachable by its name inside the container")
            return None
        return RegularFile(
            file_id=file_id,
            path=path,
            flags=look.flags,
            position=look.info.position,
            kind=_kind(mode, mount.fstype if mount else ""),
            size=look.stat.st_size if stat.S_ISREG(mode) else -1,
            deleted_object_id=deleted,
            locks=dump_locks(table, look),
            owner=None if look.flags & O_PATH else table.owner(look),
            device=look.stat.st_rdev,
        )

    @staticmethod
    def _can_carry(table: FileTable, look: Look) -> bool:
        if look.stat.st_nlink > 0 and not stat.S_ISDIR(look.stat.st_mode):
            table.refuse(
                look,
                "file-other-name",
                "was removed under the name it was opened by and lives on under another",
            )
            return False
        if not stat.S_ISREG(look.stat.st_mode):
            table.refuse(look, "file-deleted", "is removed, and not a regular file")
            return False
        return True

    def restore(self, files: RestoredFiles, record: RegularFile) -> int:
        if record.deleted_object_id:
            fd = files.open_deleted(record.deleted_object_id, record.flags)
        else:
            fd = self._open(files, record)
        if record.position and not record.flags & O_PATH:
            os.lseek(fd, record.position, os.SEEK_SET)
        return fd

    @staticmethod
    def _open(files: RestoredFiles, record: RegularFile) -> int:
        try:
            fd = open_inside(files.root, record.path, record.flags)
        except OSError as exc:
            raise RestoreError(
                f"{record.path}: {os.strerror(exc.errno or 0)} when it was opened again",
                reason="file-missing",
            ) from exc
        status = os.fstat(fd)
        problem = ""
        if record.kind == "file" and not stat.S_ISREG(status.st_mode):
            problem = "is not a regular file any more"
        elif record.kind == "directory" and not stat.S_ISDIR(status.st_mode):
            problem = "is not a directory any more"
        elif record.kind == "device" and status.st_rdev != record.device:
            problem = "is another device"
        elif record.kind == "file" and record.size not in (-1, status.st_size):
            problem = f"has {status.st_size} bytes, the image says {record.size}"
        if problem:
            os.close(fd)
            raise RestoreError(f"{record.path} {problem}", reason="file-changed")
        return fd

    def finish(self, files: RestoredFiles, record: RegularFile) -> None:
        restore_locks(files, record)


def _kind(mode: int, fstype: str) -> str:
    if fstype in _SPECIAL:
        return "special"
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "device"
    return "file" if stat.S_ISREG(mode) else "special"
