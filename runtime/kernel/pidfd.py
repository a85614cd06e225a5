"""pidfd_open(2), pidfd_getfd(2) and pidfd_send_signal(2)."""

from __future__ import annotations

import os

from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR

PIDFD_THREAD = os.O_EXCL  # include/uapi/linux/pidfd.h, Linux 6.9


def open_pidfd(pid: int, flags: int = 0) -> int:
    """Return a descriptor for the process *pid* (close-on-exec).

    Args:
        pid: A process; with PIDFD_THREAD any thread.
        flags: O_NONBLOCK (PIDFD_NONBLOCK, Linux 5.10), O_EXCL (PIDFD_THREAD, Linux 6.9).
    """
    return os.pidfd_open(pid, flags)


def get_fd(pidfd: int, fd: int) -> int:
    """Duplicate descriptor *fd* of the process behind *pidfd* into ours (close-on-exec).

    Raises:
        OSError: EBADF when the process has no such descriptor.

    Source: man 2 pidfd_getfd (Linux 5.6).
    """
    return syscall(f"pidfd_getfd({fd})", NR["pidfd_getfd"], pidfd, fd, 0)
