"""/proc/sys/kernel/ns_last_pid: the number that a pid namespace gave to a task last.

New tasks get the next free number above it. The file speaks of the namespace of whoever reads or
writes it, so that a child of ours has to be born there for a moment.
"""

from __future__ import annotations

import os

from runtime.kernel.clone import CLONE_NEWPID
from runtime.kernel.copier import spawn_copier
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
    answer, ours = os.pipe2(os.O_CLOEXEC)
    try:
        path = os.open(_PATH, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _copy_inside(pid, path, ours)
        finally:
            os.close(path)
        # The number before that of the child; whoever comes next is to get the one that it had.
        before = int(os.read(answer, 32)) - 1
    finally:
        os.close(answer)
        os.close(ours)
    set_last_pid(pid, before)
    return before


def set_last_pid(pid: int, last: int) -> None:
    """Make a pid namespace go on counting after *last*.

    Args:
        pid: A task of that namespace.
        last: From `last_pid`.

    Raises:
        OSError: No CAP_CHECKPOINT_RESTORE over it, or a number above its limit.
    """
    theirs, number = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(number, b"%d" % last)
        path = os.open(_PATH, os.O_WRONLY | os.O_CLOEXEC)
        try:
            _copy_inside(pid, theirs, path)
        finally:
            os.close(path)
    finally:
        os.close(theirs)
        os.close(number)


def _copy_inside(pid: int, source: int, sink: int) -> None:
    """Have a child in the pid namespace of *pid* copy some bytes from *source* to *sink*."""
    here = os.open("/proc/thread-self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(there, CLONE_NEWPID)
        try:
            child = spawn_copier(source, sink)
        finally:
            setns(here, CLONE_NEWPID)
        error = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        for fd in (here, there):
            os.close(fd)
    if error:
        raise OSError(error, f"{_PATH}: {os.strerror(error) if error > 0 else 'child killed'}")
