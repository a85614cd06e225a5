"""timerfd_create(2)."""

from __future__ import annotations

import fcntl
import re
import struct
import time

from formats.records.files import TimerFd
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.signals import NS
from runtime.kernel.anonfd import timerfd_create, timerfd_settime

# Of the wall clock, and of those that run on while nobody sleeps or nothing runs: by clock, the one
# to read, for alarm clocks cannot be read by everybody
_WALL_CLOCKS = {0: time.CLOCK_REALTIME, 8: time.CLOCK_REALTIME}
_OUR_CLOCKS = _WALL_CLOCKS | {
    1: time.CLOCK_MONOTONIC,
    7: time.CLOCK_BOOTTIME,
    9: time.CLOCK_BOOTTIME,
}
TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET = 1, 2  # <sys/timerfd.h>
TFD_IOC_SET_TICKS = 0x40085400  # _IOW('T', 0, u64), include/uapi/linux/timerfd.h
_PAIR = re.compile(r"\((\d+), (\d+)\)")


class TimerFds(Kind):
    """A timer as reads."""

    name = "timerfd"
    record = TimerFd

    def matches(self, table: FileTable, look: Look) -> bool:
        return look.link == "anon_inode:[timerfd]"

    def dump(self, table: FileTable, look: Look, file_id: int) -> TimerFd:
        clock, left = int(look.info.one("clockid")), _nanoseconds(look.info.one("it_value"))
        flags = int(look.info.one("settime flags"), 8)
        end = 0
        if left and flags & TFD_TIMER_ABSTIME and clock in _WALL_CLOCKS:
            end = time.clock_gettime_ns(_WALL_CLOCKS[clock]) + left
        return TimerFd(
            file_id=file_id,
            flags=look.flags,
            clock=clock,
            ticks=int(look.info.one("ticks")),
            settime_flags=flags,
            value_ns=left + table.context.since_clock() if left else 0,
            interval_ns=_nanoseconds(look.info.one("it_interval")),
            owner=table.owner(look),
            end_ns=end,
        )

    def restore(self, files: RestoredFiles, record: TimerFd) -> int:
        return timerfd_create(record.clock)

    def finish(self, files: RestoredFiles, record: TimerFd) -> None:
        # Last of all, so that the time a restore takes does not count.
        fd = files.fds[record.file_id]
        if record.end_ns and record.clock in _WALL_CLOCKS:
            flags = record.settime_flags & (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)
            timerfd_settime(fd, record.end_ns, record.interval_ns, flags)
        elif record.value_ns or record.interval_ns:
            left = record.value_ns - files.clock_elapsed()
            flags = 0
            if left <= 0 and record.interval_ns:
                # The kernel counts the periods since then, and keeps their beat.
                left, flags = time.clock_gettime_ns(_OUR_CLOCKS[record.clock]) + left, 1
            # A periodic timer that has just expired shows no time left; the smallest is right.
            timerfd_settime(fd, max(left, 1), record.interval_ns, flags)
        if record.ticks:
            fcntl.ioctl(fd, TFD_IOC_SET_TICKS, struct.pack("Q", record.ticks))


def _nanoseconds(text: str) -> int:
    match = _PAIR.match(text)
    if match is None:
        raise ValueError(f"timerfd shows the time as {text!r}")
    return int(match[1]) * NS + int(match[2])
