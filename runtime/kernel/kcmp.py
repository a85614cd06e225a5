"""kcmp(2): do two tasks share a kernel object?"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from functools import cmp_to_key
from typing import TypeVar

from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR

T = TypeVar("T")

# Kinds, include/uapi/linux/kcmp.h
KCMP_FILE = 0
KCMP_VM = 1
KCMP_FILES = 2
KCMP_FS = 3
KCMP_SIGHAND = 4
KCMP_IO = 5
KCMP_SYSVSEM = 6
KCMP_EPOLL_TFD = 7


class kcmp_epoll_slot(ctypes.Structure):  # include/uapi/linux/kcmp.h
    _fields_ = (("efd", ctypes.c_uint32), ("tfd", ctypes.c_uint32), ("toff", ctypes.c_uint32))


def kcmp(pid1: int, pid2: int, kind: int, index1: int = 0, index2: int = 0) -> int:
    """Compare two tasks' kernel objects.

    Returns:
        0 equal, 1 less, 2 greater (an arbitrary but stable order), 3 unequal.

    Raises:
        PermissionError: No PTRACE_MODE_READ over one of the tasks.

    Source: man 2 kcmp.
    """
    return syscall("kcmp", NR["kcmp"], pid1, pid2, kind, index1, index2)


def same_epoll_target(pid: int, fd: int, epoll_pid: int, efd: int, tfd: int, offset: int) -> bool:
    """Whether *fd* of *pid* is the *offset*-th file that *efd* watches under the number *tfd*."""
    slot = kcmp_epoll_slot(efd, tfd, offset)
    return kcmp(pid, epoll_pid, KCMP_EPOLL_TFD, fd, ctypes.addressof(slot)) == 0


def group_same(items: Iterable[T], compare: Callable[[T, T], int]) -> list[list[T]]:
    """Sort items into groups that *compare* (in `kcmp`'s results) calls equal.

    The kernel gives an order, so that grouping n items costs n log n calls and not n squared.
    """

    def ordered(a: T, b: T) -> int:
        return (0, -1, 1, -1)[compare(a, b)]

    groups: list[list[T]] = []
    for item in sorted(items, key=cmp_to_key(ordered)):
        if groups and compare(groups[-1][0], item) == 0:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups
