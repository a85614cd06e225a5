"""File locks: POSIX record locks, open-file-description locks and flock(2)."""

from __future__ import annotations

import fcntl
import os
import struct

from formats.records.files import FileLock, RegularFile
from runtime.engine.files.kind import Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.remote import Batch

REFUSED = (("file-lock", "a lock of a kind that cannot be put back, such as a lease"),)

# struct flock on 64-bit: type, whence, start, length, pid
_FLOCK = struct.Struct("hhxxxxqqixxxx")
F_OFD_SETLK = 37  # include/uapi/asm-generic/fcntl.h
_KINDS = {"POSIX": "posix", "OFDLCK": "ofd", "FLOCK": "flock"}


def dump_locks(table: FileTable, look: Look) -> tuple[FileLock, ...]:
    """The locks that fdinfo shows for a description.

    A line reads ``1: POSIX ADVISORY WRITE 123 08:01:456 0 EOF``.
    """
    locks = []
    for line in look.info.get("lock", ()):
        _, kind, mode, access, pid, _, first, last = line.split()[:8]
        if kind not in _KINDS or mode != "ADVISORY":
            table.refuse(look, "file-lock", f"holds a {kind} {mode} lock, which wherry cannot save")
            continue
        start = int(first)
        locks.append(
            FileLock(
                kind=_KINDS[kind],
                write=access == "WRITE",
                start=start,
                length=0 if last == "EOF" else int(last) - start + 1,
                pid=table.context.ns_pids.get(int(pid), 0),
            )
        )
    return tuple(locks)


def restore_locks(files: RestoredFiles, record: RegularFile) -> None:
    """Take the locks of a description again."""
    for lock in record.locks:
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
