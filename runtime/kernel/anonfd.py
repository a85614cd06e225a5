"""signalfd(2), timerfd_create(2), epoll(7) and inotify(7) as plain descriptor numbers."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

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


def timerfd_settime(fd: int, value_ns: int, interval_ns: int, flags: int = 0) -> None:
    """Arm a timer descriptor, without ``TFD_TIMER_ABSTIME`` in *flags* relative to now."""
    spec = itimerspec(interval_ns // NS, interval_ns % NS, value_ns // NS, value_ns % NS)
    syscall(f"timerfd_settime({fd})", NR["timerfd_settime"], fd, flags, ctypes.addressof(spec), 0)


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


# struct epoll_event is packed on x86-64 only; see man 2 epoll_ctl
_EPOLL_EVENT = struct.Struct("<IQ")
EPOLL_CTL_ADD, EPOLL_CTL_MOD = 1, 3
TAKEN_AT_ONCE = 256

# struct epoll_params and its ioctls, include/uapi/linux/eventpoll.h (Linux 6.9)
_EPOLL_PARAMS = struct.Struct("=IHBx")
EPIOCSPARAMS = 0x40088A01
EPIOCGPARAMS = 0x80088A02


def pack_event(events: int, data: int) -> bytes:
    """struct epoll_event, for a system call that somebody else makes."""
    return _EPOLL_EVENT.pack(events, data)


def epoll_add(epoll: int, fd: int, events: int, data: int) -> None:
    """Watch *fd*, epoll_ctl(2) EPOLL_CTL_ADD."""
    _epoll_ctl(epoll, EPOLL_CTL_ADD, fd, events, data)


def epoll_modify(epoll: int, fd: int, events: int, data: int) -> None:
    """Change what *fd* is watched for, epoll_ctl(2) EPOLL_CTL_MOD."""
    _epoll_ctl(epoll, EPOLL_CTL_MOD, fd, events, data)


def _epoll_ctl(epoll: int, operation: int, fd: int, events: int, data: int) -> None:
    event = ctypes.create_string_buffer(pack_event(events, data), _EPOLL_EVENT.size)
    check(
        libc.epoll_ctl(epoll, operation, fd, event),
        f"epoll_ctl({epoll}, {operation}, {fd}, {events:#x})",
    )


def epoll_take(epoll: int) -> int:
    """Take what is ready, without waiting: edges are then seen, one-shots off. Returns how many."""
    events = ctypes.create_string_buffer(_EPOLL_EVENT.size * TAKEN_AT_ONCE)
    return check(libc.epoll_wait(epoll, events, TAKEN_AT_ONCE, 0), f"epoll_wait({epoll})")


def epoll_params(epoll: int) -> tuple[int, int, int]:
    """Busy polling of an epoll instance: (microseconds, budget, prefer); zeros before Linux 6.9."""
    try:
        microseconds, budget, prefer = _EPOLL_PARAMS.unpack(
            fcntl.ioctl(epoll, EPIOCGPARAMS, bytes(_EPOLL_PARAMS.size))
        )
    except OSError as exc:
        if exc.errno in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
            return 0, 0, 0
        raise
    return microseconds, budget, prefer


def set_epoll_params(epoll: int, microseconds: int, budget: int, prefer: int) -> None:
    """Set what `epoll_params` tells."""
    fcntl.ioctl(epoll, EPIOCSPARAMS, _EPOLL_PARAMS.pack(microseconds, budget, prefer))
