"""File locks: POSIX record locks, open-file-description locks, flock(2), and leases."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from formats.records.files import FileLock, RegularFile
from runtime.engine.files.kind import Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.remote import Batch
from runtime.errors import RestoreError

REFUSED = (
    ("file-lock", "a lock of a kind that cannot be put back"),
    (
        "file-lock-outside",
        "a lock on a file of a bind mount, which programs outside can lock too; allowed by "
        "`--file-locks`",
    ),
)

# struct flock on 64-bit: type, whence, start, length, pid
_FLOCK = struct.Struct("hhxxxxqqixxxx")
F_OFD_SETLK = 37  # include/uapi/asm-generic/fcntl.h
_KINDS = {"POSIX": "posix", "OFDLCK": "ofd", "FLOCK": "flock"}
_LEASES = {"READ": fcntl.F_RDLCK, "WRITE": fcntl.F_WRLCK, "UNLCK": fcntl.F_UNLCK}


def dump_locks(table: FileTable, file_id: int) -> tuple[FileLock, ...]:
    """The locks that are held through a description.

    fdinfo shows ``1: POSIX ADVISORY WRITE 123 08:01:456 0 EOF``; record locks only to the process
    whose they are, so every process that has the description is asked.
    """
    found: dict[FileLock, None] = {}
    for look in table.looks[file_id]:
        for line in look.info.get("lock", ()):
            lock = _lock(table, look, line)
            if lock is not None:
                found[lock] = None
    look = table.looks[file_id][0]
    if found and not table.context.target.options.file_locks and _is_outside(table, look):
        table.refuse(
            look, "file-lock-outside", "holds a lock on a file that programs outside can lock too"
        )
    return tuple(found)


def _lock(table: FileTable, look: Look, line: str) -> FileLock | None:
    _, kind, mode, access, _, _, first, last = line.split()[:8]
    if kind == "LEASE":
        return _lease(table, look, mode, access)
    if kind not in _KINDS or mode != "ADVISORY":
        table.refuse(look, "file-lock", f"holds a {kind} {mode} lock, which wherry cannot save")
        return None
    start = int(first)
    # Whoever took a record lock may be gone: it belongs to the descriptor table.
    owner = table.context.ns_pids[look.pid] if kind == "POSIX" else 0
    return FileLock(
        kind=_KINDS[kind],
        write=access == "WRITE",
        start=start,
        length=0 if last == "EOF" else int(last) - start + 1,
        pid=owner,
    )


def _lease(table: FileTable, look: Look, mode: str, access: str) -> FileLock | None:
    """A lease; of one that is breaking the kernel only tells what it has to become."""
    target = _LEASES[access]
    breaking = mode == "BREAKING"
    if mode not in ("ACTIVE", "BREAKING"):
        table.refuse(look, "file-lock", f"holds a {mode} lease, which wherry cannot save")
        return None
    writes = look.flags & os.O_ACCMODE != os.O_RDONLY
    return FileLock(
        kind="lease",
        write=target == fcntl.F_WRLCK
        or (breaking and (target == fcntl.F_RDLCK or (target == fcntl.F_UNLCK and writes))),
        start=0,
        length=0,
        pid=table.context.ns_pids[table.looks[table.file_id(look.pid, look.fd) or 0][0].pid],
        breaking=breaking,
        down_to=target if breaking else fcntl.F_UNLCK,
    )


def _is_outside(table: FileTable, look: Look) -> bool:
    mount = table.mounts.get(look.info.mount_id)
    binds = {
        entry.get("destination", "").rstrip("/")
        for entry in table.context.target.spec.get("mounts") or []
        if entry.get("type") == "bind" or {"bind", "rbind"} & set(entry.get("options") or ())
    }
    return mount is not None and mount.point in binds


def restore_locks(files: RestoredFiles, record: RegularFile) -> None:
    """Take the locks of a description again."""
    for lock in record.locks:
        try:
            _take(files, record, lock)
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
                raise
            raise RestoreError(
                f"{record.path}: somebody else has locked it meanwhile", reason="file-locked"
            ) from exc


def _take(files: RestoredFiles, record: RegularFile, lock: FileLock) -> None:
    if lock.kind == "lease":
        _take_lease(files, record, lock)
        return
    words = _FLOCK.pack(
        fcntl.F_WRLCK if lock.write else fcntl.F_RDLCK,
        os.SEEK_SET,
        lock.start,
        lock.length,
        0,
    )
    if lock.kind == "flock":
        kind = fcntl.LOCK_EX if lock.write else fcntl.LOCK_SH
        fcntl.flock(files.fds[record.file_id], kind | fcntl.LOCK_NB)
    elif lock.kind == "ofd":
        fcntl.fcntl(files.fds[record.file_id], F_OFD_SETLK, words)
    else:
        # A record lock belongs to the process: that process has to take it.
        tracee, fd = files.holder(record.file_id, lock.pid)
        batch = Batch()
        batch.call("fcntl", fd, fcntl.F_SETLK, words)
        tracee.run(batch)


def _take_lease(files: RestoredFiles, record: RegularFile, lock: FileLock) -> None:
    """Take a lease; one that was breaking is broken again, by an open that does not wait.

    The signal that this sends is one of those the restore itself causes and takes away again.
    """
    tracee, fd = files.holder(record.file_id, lock.pid)
    batch = Batch()
    batch.call("fcntl", fd, fcntl.F_SETLEASE, fcntl.F_WRLCK if lock.write else fcntl.F_RDLCK)
    tracee.run(batch)
    if not lock.breaking:
        return
    access = os.O_RDONLY if lock.down_to == fcntl.F_RDLCK else os.O_WRONLY
    path = f"/proc/self/fd/{files.fds[record.file_id]}"
    try:
        os.close(os.open(path, access | os.O_NONBLOCK | os.O_CLOEXEC))
    except BlockingIOError:
        return  # it is being broken: that is what was wanted
