"""Files opened by name: regular files, directories, devices, and the files of /proc and /sys."""

from __future__ import annotations

import fcntl
import os
import re
import stat

from formats.records.files import RegularFile
from runtime.engine.files.dead_processes import is_of_dead, open_of_dead
from runtime.engine.files.kind import Kind, Look, kind_of
from runtime.engine.files.locks import dump_locks, restore_locks
from runtime.engine.files.mounts import DELETED, below
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable, Located
from runtime.engine.remote import Batch
from runtime.errors import RestoreError
from runtime.kernel.mount import AT_FDCWD

SAVED = (
    (
        "files",
        "offsets, modes, append, renamed, `O_PATH`, sparse; POSIX, open-file and `flock` locks, "
        "leases; of `/proc`, also of processes that are gone",
    ),
    (
        "removed files",
        "of every type, with their content, also `O_TMPFILE`, whole removed directory trees, and "
        "files that have another name left",
    ),
    ("directories", "half read: the rest comes, each name once"),
    (
        "devices",
        "null, zero, full, random, urandom; opened again by the program's own rights: the system's "
        "console and virtual consoles (where they control no session), autofs, loop-control, "
        "btrfs-control, hwrng",
    ),
)
REFUSED = (
    ("fd-device", "device files other than the usual ones"),
    ("file-dead-process", "a file of /proc of a dead process whose id is in use again"),
)

O_PATH = os.O_PATH

# Character devices without state of their own: null, zero, full, random, urandom
_STATELESS = {(1, minor) for minor in (3, 5, 7, 8, 9)}
# Those that the container is allowed to open, or is not: nothing of an open one is its own either
_CONSOLE, _VIRTUAL_CONSOLE_MAJOR, _VIRTUAL_CONSOLES = (5, 1), 4, 64
_CONTROLS = {(10, minor) for minor in (183, 234, 235, 237)}  # Documentation/admin-guide/devices.txt
_FDINFO = re.compile(r"/(\d+)/(?:task/\d+/)?fdinfo/(\d+)$")
O_UNNAMED = 0o20000000  # __O_TMPFILE, include/uapi/asm-generic/fcntl.h
F_GET_RW_HINT, F_SET_RW_HINT = 1035, 1036  # include/uapi/linux/fcntl.h


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
        mount = table.mounts.get(look.info.mount_id)
        mode = look.stat.st_mode
        if stat.S_ISCHR(mode) and not look.flags & O_PATH:
            device = _numbers(look.stat.st_rdev)
            if device not in _STATELESS and not is_opened_by_program(look.stat.st_rdev):
                name = f"device {device[0]}:{device[1]}"
                table.refuse(look, "fd-device", f"is {name}, which wherry cannot save")
                return None
        kind = kind_of(mode, mount.fstype if mount else "")
        if mount is not None and mount.fstype == "proc" and is_of_dead(table, mount.point, look):
            kind, path = "dead-process", look.link.removesuffix(DELETED)
            found = Located(path)
            if path.split("/")[mount.point.rstrip("/").count("/") + 1] in table.living:
                table.refuse(look, "file-dead-process", "is of a process whose id has a new owner")
                return None
        else:
            what = f"fd {look.fd} ({look.link})"
            located = table.locate(what, look.pid, look.link, look.proc_path, look.stat)
            if located is None:
                return None
            found = located
            path = found.path
            if found.deleted_object_id and look.flags & O_UNNAMED:
                table.mark_unnamed(look)
        path_only = bool(look.flags & O_PATH)
        opener = 0
        if mount is not None and mount.fstype == "proc" and below(mount, path).startswith("/sys/"):
            opener = table.context.ns_pids[look.pid]
        elif not path_only and stat.S_ISCHR(mode) and is_opened_by_program(look.stat.st_rdev):
            if found.deleted_object_id:
                table.refuse(look, "fd-device", "is a removed device file that is not the usual")
                return None
            opener = table.context.ns_pids[look.pid]
        return RegularFile(
            file_id=file_id,
            path=path,
            flags=look.flags,
            position=look.info.position,
            kind=kind,
            size=look.stat.st_size if stat.S_ISREG(mode) else -1,
            deleted_object_id=found.deleted_object_id,
            locks=() if path_only else dump_locks(table, file_id),
            owner=None if path_only else table.owner(look),
            device=look.stat.st_rdev,
            opener=opener,
            mount_id=found.mount_id,
            inner=found.inner,
            hidden=found.hidden,
            write_hint=0 if path_only or kind != "file" else write_hint(look),
        )

    def restore(self, files: RestoredFiles, record: RegularFile) -> int:
        if record.deleted_object_id:
            fd = files.open_deleted(record.deleted_object_id, record.flags)
        elif record.kind == "dead-process":
            fd = open_of_dead(files, record)
        else:
            fd = self._open(files, record)
        if record.position and not record.flags & O_PATH:
            os.lseek(fd, record.position, os.SEEK_SET)
        return fd

    @staticmethod
    def _open(files: RestoredFiles, record: RegularFile) -> int:
        try:
            if record.opener:
                fd = open_from_task(files, record)
            elif of_descriptor := _FDINFO.search(record.path):
                fd = _open_fdinfo(files, record, int(of_descriptor[1]), int(of_descriptor[2]))
            else:
                fd = files.open(record, record.flags)
        except OSError as exc:
            raise RestoreError(
                f"{record.path}: {os.strerror(exc.errno or 0)} when it was opened again",
                reason="file-missing",
            ) from exc
        status = os.fstat(fd)
        problem = ""
        is_device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
        usual = stat.S_ISCHR(status.st_mode) and _numbers(status.st_rdev) in _STATELESS
        if is_device and not (usual or record.opener or record.flags & O_PATH):
            problem = "is a device that only the program itself may open"
        elif record.kind == "file" and not stat.S_ISREG(status.st_mode):
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
        if record.write_hint:
            hint = record.write_hint.to_bytes(8, "little")
            fcntl.fcntl(files.fds[record.file_id], F_SET_RW_HINT, hint)
        restore_locks(files, record)


def _open_fdinfo(files: RestoredFiles, record: RegularFile, process: int, number: int) -> int:
    """Open what /proc shows of a descriptor that the process does not have yet."""
    task = next((files.tracees[p] for p, i in files.ns_pids.items() if i == process), None)
    if task is None:
        return files.open(record, record.flags)
    batch = Batch()
    taken = batch.call("fcntl", task.channel_fd, fcntl.F_DUPFD_CLOEXEC, number)
    stand_in = task.run(batch)[taken]  # another number where it has that one
    try:
        return files.open(record, record.flags)
    finally:
        batch = Batch()
        batch.call("close", stand_in)
        task.run(batch)


def is_opened_by_program(device: int) -> bool:
    """Whether a character device has no state of its own, but not everybody may open it.

    Args:
        device: st_rdev.
    """
    major, minor = _numbers(device)
    return (
        (major, minor) == _CONSOLE
        or (major, minor) in _CONTROLS
        or (major == _VIRTUAL_CONSOLE_MAJOR and minor < _VIRTUAL_CONSOLES)
    )


def _numbers(device: int) -> tuple[int, int]:
    return os.major(device), os.minor(device)


def open_from_task(files: RestoredFiles, record: RegularFile) -> int:
    """Have a process open a file: parameters differ by namespace, allowed devices by cgroup."""
    tracee = next((files.tracees[p] for p, i in files.ns_pids.items() if i == record.opener), None)
    if tracee is None:
        raise RestoreError(f"no process {record.opener} in the image", reason="image-inconsistent")
    batch = Batch()
    flags = record.flags | os.O_CLOEXEC | os.O_NOCTTY
    opened = batch.call("openat", AT_FDCWD, os.fsencode(record.path) + b"\0", flags, 0)
    number = tracee.run(batch)[opened]
    return files.take_from(tracee, number)


def write_hint(look: Look) -> int:
    """How long what is written is expected to live, fcntl(2) F_GET_RW_HINT; 0 when not set."""
    fd = look.duplicate()
    try:
        return int.from_bytes(fcntl.fcntl(fd, F_GET_RW_HINT, bytes(8)), "little")
    finally:
        os.close(fd)
