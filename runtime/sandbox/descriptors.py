"""Descriptors of a process that is about to become the user's program."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from runtime.kernel.close_range import mark_close_on_exec

FIRST_FREE = 3
_NULL = os.makedev(1, 3)
_NO_END = (1 << 31) - 1  # close_range(2) does not walk the gap


class Stdio(NamedTuple):
    """The host's descriptors that become 0, 1 and 2 of the container's process."""

    stdin: int
    stdout: int
    stderr: int


def close_all_except(keep: Iterable[int]) -> None:
    """Close every descriptor that is not in *keep*.

    What a container's init inherits by accident would keep files, locks and pipes of the host
    alive for as long as it waits to be started.
    """
    low = 0
    for fd in sorted(set(keep)):
        if low < fd:  # an empty range at 0 would wrap around and close everything
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, _NO_END)


def place_stdio(stdio: Stdio) -> None:
    """Make *stdio* our 0, 1 and 2."""
    # Copies out of the way first: the three may be each other's targets
    copies = [_dup_above(fd) for fd in stdio]
    for number, copy in enumerate(copies):
        os.dup2(copy, number)
        os.close(copy)


def _dup_above(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE)


def own_stdio(uid: int) -> None:
    """Give 0, 1 and 2 to the user, who could not reopen /dev/stdout otherwise."""
    for fd in (0, 1, 2):
        status = os.fstat(fd)
        if status.st_uid == uid or (stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL):
            continue
        try:
            os.fchown(fd, uid, -1)
        except OSError as exc:
            # An owner that this user namespace does not map, a read-only file system: such a
            # stream can be used all the same, only not reopened by name
            if exc.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS):
                raise


def inherit_only(count: int, *also: int) -> None:
    """Let the program inherit descriptors below *count* and those of *also*, nothing else."""
    mark_close_on_exec(count)
    for fd in (*range(FIRST_FREE, count), *also):
        os.set_inheritable(fd, True)
