"""Core scheduling: which tasks may run on one CPU core at a time, prctl(PR_SCHED_CORE)."""

from __future__ import annotations

import ctypes
import errno

from runtime.kernel.away import call_away
from runtime.kernel.prctl import (
    PR_SCHED_CORE,
    PR_SCHED_CORE_CREATE,
    PR_SCHED_CORE_GET,
    PR_SCHED_CORE_SHARE_FROM,
    PR_SCHED_CORE_SHARE_TO,
    prctl,
)

_OF_THREAD = 0  # PR_SCHED_CORE_SCOPE_THREAD


def cookie(tid: int) -> int:
    """A number that tasks of one group have in common; 0 for a task without a group.

    Source: Documentation/admin-guide/hw-vuln/core-scheduling.rst (Linux 5.14).
    """
    value = ctypes.c_uint64()
    try:
        prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, tid, _OF_THREAD, ctypes.addressof(value))
    except OSError as exc:
        if exc.errno in (errno.EINVAL, errno.ENODEV):  # not built in; one thread to a core
            return 0
        raise
    return value.value


def create(tid: int) -> None:
    """Put a task into a group of its own."""
    prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, tid, _OF_THREAD)


def share(source: int, target: int) -> None:
    """Put the task *target* into the group of *source*; we are not in it afterwards."""

    def act() -> bytes:
        prctl(PR_SCHED_CORE, PR_SCHED_CORE_SHARE_FROM, source, _OF_THREAD)
        prctl(PR_SCHED_CORE, PR_SCHED_CORE_SHARE_TO, target, _OF_THREAD)
        return b""

    call_away([], act)
