"""/proc/sys/kernel/ns_last_pid: the number that a pid namespace gave to a task last.

New tasks get the next free number above it. The file speaks of the namespace of whoever reads or
writes it, so that a child of ours has to be born there for a moment.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from runtime.kernel.clone import CLONE_NEWPID
from runtime.kernel.namespaces import setns

_PATH = "/proc/sys/kernel/ns_last_pid"


def last_pid(pid: int) -> int:
    """What the pid namespace of a task gave last; everything is left as it was.

    Args:
        pid: A task of that namespace, whose tasks must be stopped.

    Raises:
        OSError: The namespace has no init any more, or takes no more processes.

    Source: man 5 proc_sys_kernel, CONFIG_CHECKPOINT_RESTORE.
    """
    path = os.open(_PATH, os.O_RDWR | os.O_CLOEXEC)

    def ask() -> int:
        # The number before our own; whoever comes next is to get the one that we have now.
        before = int(os.pread(path, 32, 0)) - 1
        os.pwrite(path, b"%d" % before, 0)
        return before

    try:
        return _inside(pid, ask)
    finally:
        os.close(path)


def set_last_pid(pid: int, last: int) -> None:
    """Make a pid namespace go on counting after *last*.

    Args:
        pid: A task of that namespace.
        last: From `last_pid`.

    Raises:
        OSError: No CAP_CHECKPOINT_RESTORE over it, or a number above its limit.
    """
    path = os.open(_PATH, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _inside(pid, lambda: os.pwrite(path, b"%d" % last, 0))
    finally:
        os.close(path)


def _inside(pid: int, work: Callable[[], int]) -> int:
    """The result of *work*, done by a child in the pid namespace of *pid*."""
    here = os.open("/proc/thread-self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    answer, ours = os.pipe2(os.O_CLOEXEC)
    try:
        setns(there, CLONE_NEWPID)
        try:
            child = os.fork()
            if child == 0:
                _answer(ours, work)
        finally:
            setns(here, CLONE_NEWPID)
        os.waitpid(child, 0)
        os.close(ours)
        ours = -1
        said = os.read(answer, 64)
    finally:
        for fd in (here, there, answer, ours):
            if fd >= 0:
                os.close(fd)
    if not said.startswith(b"="):
        error = int(said or b"0")
        raise OSError(error, f"{_PATH}: {os.strerror(error) if error else 'the child was killed'}")
    return int(said[1:])


def _answer(fd: int, work: Callable[[], int]) -> None:
    try:
        try:
            os.write(fd, b"=%d" % work())
        except OSError as exc:
            os.write(fd, b"%d" % (exc.errno or 0))
    finally:
        os._exit(0)
