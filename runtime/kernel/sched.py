"""sched_setattr(2) and ioprio_set(2), and what they set: CPU and I/O scheduling of a task."""

from __future__ import annotations

import ctypes
from typing import Final

from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR

# include/uapi/linux/sched.h
SCHED_POLICIES: Final = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,  # reserved in the kernel, never implemented: EINVAL
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
SCHED_FLAGS: Final = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}

# include/uapi/linux/ioprio.h
IOPRIO_CLASSES: Final = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
IOPRIO_CLASS_SHIFT = 13
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


def get_attr(tid: int) -> sched_attr:
    """How a task is scheduled.

    Raises:
        ProcessLookupError: The task has exited.

    Source: man 2 sched_getattr (Linux 3.14).
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


def set_attr(tid: int, attr: sched_attr) -> None:
    """Change how a task is scheduled; 0 is ourselves.

    Raises:
        PermissionError: No CAP_SYS_NICE for what was asked.
        OSError: EINVAL for values out of range; EBUSY when a deadline cannot be promised.

    Source: man 2 sched_setattr (Linux 3.14).
    """
    attr.size = ctypes.sizeof(attr)
    call = (
        f"sched_setattr({tid}, policy={attr.sched_policy}, nice={attr.sched_nice}, "
        f"priority={attr.sched_priority})"
    )
    syscall(call, NR["sched_setattr"], tid, ctypes.addressof(attr), 0)


def set_scheduler(
    policy: int,
    *,
    nice: int = 0,
    priority: int = 0,
    flags: int = 0,
    runtime_ns: int = 0,
    deadline_ns: int = 0,
    period_ns: int = 0,
) -> None:
    """Set our scheduling policy with everything that belongs to it.

    Args:
        policy: One of ``SCHED_POLICIES``.
        nice: For SCHED_OTHER and SCHED_BATCH, -20 to 19.
        priority: For SCHED_FIFO and SCHED_RR, 1 to 99.
        flags: ``SCHED_FLAGS``.
        runtime_ns: SCHED_DEADLINE's runtime; also *deadline_ns* and *period_ns*.

    Raises:
        PermissionError: No CAP_SYS_NICE for what was asked.
        OSError: EINVAL for values out of range; EBUSY when a deadline cannot be promised.

    Source: man 2 sched_setattr (Linux 3.14).
    """
    attr = sched_attr(
        ctypes.sizeof(sched_attr), policy, flags, nice, priority, runtime_ns, deadline_ns, period_ns
    )
    set_attr(0, attr)


def set_io_priority(io_class: int, priority: int) -> None:
    """Set our I/O scheduling class (``IOPRIO_CLASSES``) and priority in it (0, highest, to 7).

    Raises:
        PermissionError: The real-time class without CAP_SYS_ADMIN or CAP_SYS_NICE.

    Source: man 2 ioprio_set.
    """
    set_io_priority_of(0, io_class << IOPRIO_CLASS_SHIFT | priority)


def io_priority_of(tid: int) -> int:
    """A task's I/O scheduling class and priority as one value, ioprio_get(2)."""
    return syscall(f"ioprio_get({tid})", NR["ioprio_get"], IOPRIO_WHO_PROCESS, tid)


def set_io_priority_of(tid: int, value: int) -> None:
    """Change a task's I/O scheduling class and priority, as `io_priority_of` gives them."""
    syscall(f"ioprio_set({tid}, {value:#x})", NR["ioprio_set"], IOPRIO_WHO_PROCESS, tid, value)
