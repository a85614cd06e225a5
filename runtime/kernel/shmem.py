"""Shared anonymous memory with a descriptor for it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence

MAP_HUGETLB, MAP_HUGE_SHIFT = 0x40000, 26  # include/uapi/asm-generic/hugetlb_encode.h


def shared_anonymous(size: int, huge_page_size: int = 0) -> int:
    """Make a shared anonymous object, as mmap(MAP_SHARED | MAP_ANONYMOUS) does.

    The object behind such a mapping has no name; /proc/self/map_files opens it all the same.

    Args:
        size: Bytes, more than 0.
        huge_page_size: Bytes of its pages, for an object of hugetlbfs; 0 for ordinary ones.

    Returns:
        A read-write descriptor (close-on-exec).

    Raises:
        PermissionError: No CAP_CHECKPOINT_RESTORE, which map_files asks for.
        OSError: ENOMEM, there are not enough huge pages.
    """
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
    if huge_page_size:
        flags |= MAP_HUGETLB | (huge_page_size.bit_length() - 1) << MAP_HUGE_SHIFT
    mapping = mmap.mmap(-1, size, flags=flags)
    view = ctypes.c_char.from_buffer(mapping)
    start = ctypes.addressof(view)
    end = start + size + -size % (huge_page_size or mmap.PAGESIZE)
    try:
        return os.open(f"/proc/self/map_files/{start:x}-{end:x}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        del view
        mapping.close()


def write_mapped(fd: int, runs: Sequence[tuple[int, int]], data: memoryview) -> None:
    """Write (start, length) byte ranges of a file through a mapping.

    Files of hugetlbfs cannot be written otherwise.
    """
    with mmap.mmap(fd, 0) as mapping:
        done = 0
        for start, length in runs:
            mapping[start : start + length] = data[done : done + length]
            done += length
