"""PIDFD_GET_INFO: the exit status of a task that somebody else has reaped.

Source: include/uapi/linux/pidfd.h. The ioctl exists since Linux 6.13, exit information since 6.15.
"""

from __future__ import annotations

import errno
import fcntl
import select
import struct

# struct pidfd_info as of PIDFD_INFO_SIZE_VER0: mask, cgroupid, then pid, tgid, ppid, ruid, rgid,
# euid, egid, suid, sgid, fsuid, fsgid, exit_code.
_PIDFD_INFO = struct.Struct("=QQ11Ii")
_EXIT_CODE = 13

# _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)
PIDFD_GET_INFO = (3 << 30) | (_PIDFD_INFO.size << 16) | (0xFF << 8) | 11
PIDFD_INFO_EXIT = 1 << 3


def wait_reaped(pidfd: int, timeout_s: float | None) -> bool:
    """Wait until the task has ended *and* its parent has reaped it.

    Only then does the kernel tell its exit status to others. Before Linux 6.15 the descriptor
    never reports this, so a caller that may run there passes a timeout.

    Returns:
        False when *timeout_s* seconds passed before.
    """
    poll = select.poll()
    poll.register(pidfd, 0)  # POLLHUP cannot be masked out, and nothing else is asked for
    return bool(poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000))))


def exit_status(pidfd: int) -> int | None:
    """The wait status of a reaped task, as os.waitpid() would have given it.

    Returns:
        None when the kernel cannot tell: the task is not reaped yet, the descriptor was opened
        too late, or the kernel is older than 6.15.
    """
    info = bytearray(_PIDFD_INFO.pack(PIDFD_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, info, True)
    except OSError as exc:
        # ESRCH: reaped, but nothing is known; ENOTTY, EINVAL: the kernel has no such request.
        if exc.errno in (errno.ESRCH, errno.ENOTTY, errno.EINVAL):
            return None
        raise
    fields = _PIDFD_INFO.unpack(info)
    return int(fields[_EXIT_CODE]) if fields[0] & PIDFD_INFO_EXIT else None
