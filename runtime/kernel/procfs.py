"""Whole files of procfs and its kin, with as few system calls as there can be.

``pathlib`` and ``open`` spend more time on a file of /proc than the kernel does, and a container of
a thousand processes has tens of thousands of them.
"""

from __future__ import annotations

import os

_FIRST = 4096
_FURTHER = 1 << 20


def read_bytes(path: str) -> bytes:
    """The content of a file that says what it holds anew at each opening.

    Raises:
        FileNotFoundError, ProcessLookupError: The task has exited.
        OSError: As open(2) and read(2).
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.read(fd, _FIRST)
        if not found:
            return found
        parts = [found]
        # A short read is no end: procfs gives out whole lines, as many as fit.
        while more := os.read(fd, _FURTHER):
            parts.append(more)
        return b"".join(parts)
    finally:
        os.close(fd)


def read_text(path: str) -> str:
    """`read_bytes` as text, in which bytes that are none come back as they were."""
    return os.fsdecode(read_bytes(path))
