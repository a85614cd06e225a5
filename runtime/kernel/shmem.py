"""Shared anonymous memory with a descriptor for it."""

from __future__ import annotations

import ctypes
import mmap
import os


def shared_anonymous(size: int) -> int:
    """Make a shared anonymous object, as mmap(MAP_SHARED | MAP_ANONYMOUS) does.

    The object behind such a mapping has no name; /proc/self/map_files opens it all the same.

    Args:
        size: Bytes, more than 0.

    Returns:
        A read-write descriptor (close-on-exec).

    Raises:
        PermissionError: No CAP_CHECKPOINT_RESTORE, which map_files asks for.
    """
    mapping = mmap.mmap(-1, size)
    view = ctypes.c_char.from_buffer(mapping)
    start = ctypes.addressof(view)
    end = start + size + -size % mmap.PAGESIZE
    try:
        return os.open(f"/proc/self/map_files/{start:x}-{end:x}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        del view
        mapping.close()
