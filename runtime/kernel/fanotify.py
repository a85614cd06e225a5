"""fanotify(7): groups, their marks, and events that nobody shall see.

Numbers are those of include/uapi/linux/fanotify.h.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import struct
import termios

from runtime.kernel.libc import syscall
from runtime.kernel.mount import AT_FDCWD
from runtime.kernel.numbers import NR

FAN_CLOEXEC, FAN_NONBLOCK = 0x1, 0x2
FAN_CLASS_CONTENT, FAN_CLASS_PRE_CONTENT = 0x4, 0x8
FAN_REPORT_PIDFD = 0x80

FAN_MARK_ADD, FAN_MARK_MOUNT, FAN_MARK_FILESYSTEM = 0x1, 0x10, 0x100
FAN_MARK_IGNORED_MASK, FAN_MARK_IGNORED_SURV_MODIFY = 0x20, 0x40
FAN_MARK_EVICTABLE, FAN_MARK_IGNORE = 0x200, 0x400

# Events that somebody waits for until the listener has answered
FAN_ALL_PERM_EVENTS = 0x10000 | 0x20000 | 0x40000 | 0x100000

_METADATA = struct.Struct("<IBBHQii")  # struct fanotify_event_metadata
_INFO = struct.Struct("<BBH")  # struct fanotify_event_info_header
_INFO_TYPE_PIDFD = 4
_ROOM = 64 << 10


def fanotify_init(flags: int, event_flags: int) -> int:
    """Make a group; returns its descriptor, which is closed on exec.

    Args:
        flags: ``FAN_*``.
        event_flags: open(2) flags of the descriptors that come with events.

    Raises:
        PermissionError: Flags that need CAP_SYS_ADMIN.

    Source: man 2 fanotify_init.
    """
    # FAN_CLOEXEC belongs to what /proc says of the group for ever, so it cannot be asked for here.
    fd = syscall("fanotify_init", NR["fanotify_init"], flags, event_flags)
    os.set_inheritable(fd, False)
    return fd


def fanotify_mark(fd: int, flags: int, mask: int, target: int) -> None:
    """Add a mark of what a descriptor of ours leads to.

    Raises:
        OSError: As of man 2 fanotify_mark.
    """
    path = ctypes.create_string_buffer(f"/proc/self/fd/{target}".encode())
    syscall(
        f"fanotify_mark({flags:#x}, {mask:#x})",
        NR["fanotify_mark"],
        fd,
        flags,
        mask,
        AT_FDCWD,
        ctypes.addressof(path),
    )


def waiting(fd: int) -> int:
    """Bytes of events that nobody has read."""
    size = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, size)
    return size[0]


def discard(fd: int) -> None:
    """Take all events that wait, and close what comes with them."""
    while waiting(fd):
        try:
            events = os.read(fd, _ROOM)
        except OSError as exc:
            if exc.errno in (errno.EAGAIN, errno.EWOULDBLOCK):
                return
            continue  # an event whose file cannot be opened any more: it is gone now
        _close_all(events)


def _close_all(events: bytes) -> None:
    start = 0
    while start + _METADATA.size <= len(events):
        length, _, _, header, _, fd, _ = _METADATA.unpack_from(events, start)
        if length < _METADATA.size:
            return
        if fd >= 0:
            os.close(fd)
        inner = start + header
        while inner + _INFO.size <= start + length:
            kind, _, size = _INFO.unpack_from(events, inner)
            if size < _INFO.size:
                break
            if kind == _INFO_TYPE_PIDFD:
                (pidfd,) = struct.unpack_from("<i", events, inner + _INFO.size)
                if pidfd >= 0:
                    os.close(pidfd)
            inner += size
        start += length
