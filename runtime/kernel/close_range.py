"""close_range(2): mark many descriptors close-on-exec at once."""

from __future__ import annotations

from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR

CLOSE_RANGE_CLOEXEC = 1 << 2  # include/uapi/linux/close_range.h (Linux 5.11)
_LAST = (1 << 32) - 1


def mark_close_on_exec(first: int) -> None:
    """Set close-on-exec on every descriptor from *first* on. Source: man 2 close_range."""
    call = f"close_range({first}, cloexec)"
    syscall(call, NR["close_range"], first, _LAST, CLOSE_RANGE_CLOEXEC)
