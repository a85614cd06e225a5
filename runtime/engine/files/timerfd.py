"""timerfd_create(2)."""

from __future__ import annotations

import fcntl
import re
import struct

from formats.records.files import TimerFd
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.signals import NS
from runtime.kernel.anonfd import timerfd_create, timerfd_settime

TFD_IOC_SET_TICKS = 0x40085400  # _IOW('T', 0, u64), include/uapi/linux/timerfd.h
_PAIR = re.compile(r"\((\d+), (\d+)\)")


class TimerFds(Kind):
    """A timer as reads."""

    name = "timerfd"
    record = TimerFd

    def matches(self, table: FileTable, look: Look) -> bool:
        return look.link == "anon_inode:[timerfd]"

    def dump(self, table: FileTable, look: Look, file_id: int) -> TimerFd:
        return TimerFd(
            file_id=file_id,
            flags=look.flags,
            clock=int(look.info.one("clockid")),
            ticks=int(look.info.one("ticks")),
            settime_flags=int(look.info.one("settime flags"), 8),
            value_ns=_nanoseconds(look.info.one("it_value")),
            interval_ns=_nanoseconds(look.info.one("it_interval")),
            owner=table.owner(look),
        )

    def restore(self, files: RestoredFiles, record: TimerFd) -> int:
        return timerfd_create(record.clock)

    def finish(self, files: RestoredFiles, record: TimerFd) -> None:
        # Last of all, so that the time a restore takes does not count.
        fd = files.fds[record.file_id]
        if record.value_ns or record.interval_ns:
            # A periodic timer that has just expired shows no time left; the smallest is right.
            timerfd_settime(fd, record.value_ns or 1, record.interval_ns)
        if record.ticks:
            fcntl.ioctl(fd, TFD_IOC_SET_TICKS, struct.pack("Q", record.ticks))


def _nanoseconds(text: str) -> int:
    match = _PAIR.match(text)
    if match is None:
        raise ValueError(f"timerfd shows the time as {text!r}")
    return int(match[1]) * NS + int(match[2])
