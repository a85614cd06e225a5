"""tee(2): copy a pipe's content into another pipe without consuming it."""

from __future__ import annotations

from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR

SPLICE_F_NONBLOCK = 2  # include/linux/splice.h


def tee(source: int, target: int, length: int) -> int:
    """Copy up to *length* bytes from pipe *source* to pipe *target*; returns how many.

    Raises:
        BlockingIOError: Nothing to copy, or no room.

    Source: man 2 tee.
    """
    return syscall("tee", NR["tee"], source, target, length, SPLICE_F_NONBLOCK)
