"""syncfs(2): write out a whole file system."""

from __future__ import annotations

from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR


def syncfs(fd: int) -> None:
    """Wait until all that was written to a file system is on the disk.

    Args:
        fd: Any file of it, open for reading.

    Raises:
        OSError: EIO, ENOSPC or EDQUOT when something could not be written.

    Source: man 2 syncfs.
    """
    syscall(f"syncfs({fd})", NR["syncfs"], fd)
