"""Status flags and the receiver of SIGIO: what every open file description has."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Any

from runtime.engine.files.restored import RestoredFiles
from runtime.engine.remote import Batch, Tracee
from runtime.errors import RestoreError

# What fcntl(2) F_SETFL can change
CHANGEABLE = os.O_APPEND | os.O_ASYNC | os.O_DIRECT | os.O_NOATIME | os.O_NONBLOCK
F_SETOWN_EX, F_SETSIG = 15, 10  # include/uapi/asm-generic/fcntl.h


def restore_flags(files: RestoredFiles, record: Any) -> None:
    """Give a restored description the flags and the owner of its record."""
    if record.flags & os.O_PATH:
        return
    fd = files.fds[record.file_id]
    if record.owner is not None:
        if record.owner.pid:
            # A thread, a process or a group, each by the task that has its number.
            tid = files.tids.get(record.owner.pid)
            if tid is None:
                raise RestoreError(
                    f"file {record.file_id} signals task {record.owner.pid}, which is not there",
                    reason="image-inconsistent",
                )
            fcntl.fcntl(fd, F_SETOWN_EX, struct.pack("ii", record.owner.kind, tid))
        fcntl.fcntl(fd, F_SETSIG, record.owner.signal)
    now = fcntl.fcntl(fd, fcntl.F_GETFL)
    if not (now ^ record.flags) & CHANGEABLE:
        return
    wanted = record.flags & CHANGEABLE
    held = _held(files, record.file_id) if wanted & os.O_ASYNC else None
    if held is None:
        fcntl.fcntl(fd, fcntl.F_SETFL, wanted)
    else:
        # A signal tells the number of the descriptor through which it was asked for.
        task, number = held
        batch = Batch()
        batch.call("fcntl", number, fcntl.F_SETFL, wanted)
        task.run(batch)


def _held(files: RestoredFiles, file_id: int) -> tuple[Tracee, int] | None:
    """A process that has a file by now, and its number there."""
    for pid, table in files.tables.items():
        for number, held in table.items():
            if held == file_id and pid in files.tracees:
                return files.tracees[pid], number
    return None
