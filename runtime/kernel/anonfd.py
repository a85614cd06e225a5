"""signalfd(2), timerfd_create(2), epoll_create(2) and inotify(7) as plain descriptor numbers."""

from __future__ import annotations

import ctypes
import os

from runtime.kernel.libc import check, libc, syscall
from runtime.kernel.numbers import NR

IN_CLOEXEC = os.O_CLOEXEC
NS = 10**9


class itimerspec(ctypes.Structure):  # <time.h>, both times flattened
    _fields_ = (
        ("interval_s", ctypes.c_int64),
        ("interval_ns", ctypes.c_int64),
        ("value_s", ctypes.c_int64),
        ("value_ns", ctypes.c_int64),
    )


def signalfd(mask: int) -> int:
    """Make a signal descriptor (close-on-exec); bit n-1 of *mask* stands for signal n."""
    bits = ctypes.c_uint64(mask)
    # glibc's sigset_t is larger than the kernel's; the raw call takes the kernel's.
    return syscall("signalfd4", NR["signalfd4"], -1, ctypes.addressof(bits), 8, os.O_CLOEXEC)


def timerfd_create(clock: int) -> int:
    """Make a timer descriptor (close-on-exec), timerfd_create(2)."""
    return syscall("timerfd_create", NR["timerfd_create"], clock, os.O_CLOEXEC)


def timerfd_settime(fd: int, value_ns: int, interval_ns: int) -> None:
    """Arm a timer descriptor, relative to now."""
    spec = itimerspec(interval_ns // NS, interval_ns % NS, value_ns // NS, value_ns % NS)
    syscall(f"timerfd_settime({fd})", NR["timerfd_settime"], fd, 0, ctypes.addressof(spec), 0)


def inotify_init() -> int:
    """Make an inotify descriptor (close-on-exec)."""
    return check(libc.inotify_init1(IN_CLOEXEC), "inotify_init1")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch *path*; returns the watch descriptor, inotify_add_watch(2)."""
    return check(
        libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask)),
        f"inotify_add_watch({path!r}, {mask:#x})",
    )


def epoll_create() -> int:
    """Make an epoll descriptor (close-on-exec)."""
    return check(libc.epoll_create1(os.O_CLOEXEC), "epoll_create1")
