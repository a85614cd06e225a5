"""get_robust_list(2): the futexes that a dying thread leaves to others."""

from __future__ import annotations

import ctypes

from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR


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
