"""sched_getattr(2), ioprio_get(2) and friends, by task id."""

from __future__ import annotations

import ctypes

from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR

IOPRIO_WHO_PROCESS = 1


class sched_attr(ctypes.Structure):  # include/uapi/linux/sched/types.h, SCHED_ATTR_SIZE_VER1
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("sched_policy", ctypes.c_uint32),
        ("sched_flags", ctypes.c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", ctypes.c_uint32),
        ("sched_runtime", ctypes.c_uint64),
        ("sched_deadline", ctypes.c_uint64),
        ("sched_period", ctypes.c_uint64),
        ("sched_util_min", ctypes.c_uint32),
        ("sched_util_max", ctypes.c_uint32),
    )


def get(tid: int) -> sched_attr:
    """Return how a task is scheduled.

    Source: man 2 sched_getattr.
    """
    attr = sched_attr()
    syscall(
        f"sched_getattr({tid})",
        NR["sched_getattr"],
        tid,
        ctypes.addressof(attr),
        ctypes.sizeof(attr),
        0,
    )
    return attr


def io_priority(tid: int) -> int:
    """Return a task's I/O priority value, ioprio_get(2)."""
    return syscall(f"ioprio_get({tid})", NR["ioprio_get"], IOPRIO_WHO_PROCESS, tid)


def robust_list(tid: int) -> tuple[int, int]:
    """Return (head address, length) of a task's robust futex list, get_robust_list(2)."""
    head, length = ctypes.c_uint64(), ctypes.c_uint64()
    syscall(
        f"get_robust_list({tid})",
        NR["get_robust_list"],
        tid,
        ctypes.addressof(head),
        ctypes.addressof(length),
    )
    return head.value, length.value


def set_attr(tid: int, attr: sched_attr) -> None:
    """Change how a task is scheduled, sched_setattr(2).

    Raises:
        PermissionError: No CAP_SYS_NICE for what is asked.
    """
    attr.size = ctypes.sizeof(attr)
    syscall(f"sched_setattr({tid})", NR["sched_setattr"], tid, ctypes.addressof(attr), 0)


def set_io_priority(tid: int, value: int) -> None:
    """Change a task's I/O priority, ioprio_set(2)."""
    syscall(f"ioprio_set({tid})", NR["ioprio_set"], IOPRIO_WHO_PROCESS, tid, value)
