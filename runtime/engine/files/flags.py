"""Status flags and the receiver of SIGIO: what every open file description has."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Any

from runtime.engine.files.restored import RestoredFiles

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
            pid = next(pid for pid, inside in files.ns_pids.items() if inside == record.owner.pid)
            fcntl.fcntl(fd, F_SETOWN_EX, struct.pack("ii", record.owner.kind, pid))
        fcntl.fcntl(fd, F_SETSIG, record.owner.signal)
    now = fcntl.fcntl(fd, fcntl.F_GETFL)
    if (now ^ record.flags) & CHANGEABLE:
        fcntl.fcntl(fd, fcntl.F_SETFL, record.flags & CHANGEABLE)
