"""A program of many small parts: ``many.py KIND COUNT CONTROL_DIR``; it says ``ready`` and waits.

KIND is one of ``processes``, ``threads``, ``mappings`` and ``descriptors``.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import socket
import sys
import threading
from pathlib import Path

FOREVER = threading.Event()
PAGE = mmap.PAGESIZE


def processes(count: int) -> None:
    """*count* processes, this one among them; each other one a program of its own."""
    for _ in range(count - 1):
        os.posix_spawn("/bin/sleep", ["sleep", "1000000"], {})


def threads(count: int) -> None:
    """*count* threads, this one among them, each blocked in a futex wait."""
    threading.stack_size(256 << 10)
    for _ in range(count - 1):
        threading.Thread(target=FOREVER.wait, daemon=True).start()


def mappings(count: int) -> None:
    """*count* mappings of a page each; every other one read-only, so that none are merged."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = libc.mmap(None, count * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    ctypes.memset(start, 1, count * PAGE)
    for number in range(0, count, 2):
        libc.mprotect(start + number * PAGE, PAGE, mmap.PROT_READ)


def descriptors(count: int) -> None:
    """*count* descriptors: files, event descriptors, pipes and sockets."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[object] = []
    for number in range(count // 6):
        file = os.open(__file__, os.O_RDONLY)
        os.lseek(file, number, os.SEEK_SET)
        held += [file, os.eventfd(number), os.pipe(), *socket.socketpair()]
    globals()["held"] = held


def main() -> None:
    """Make the parts, say so, wait."""
    kind, count, control = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    {f.__name__: f for f in (processes, threads, mappings, descriptors)}[kind](count)
    (control / "ready").write_text("1")
    signal.pause()


main()
