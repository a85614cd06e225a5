"""process_vm_readv(2) and process_vm_writev(2): copy another task's memory in one call."""

from __future__ import annotations

import array
import ctypes
from collections.abc import Sequence

from runtime.kernel.libc import check, libc

UIO_MAXIOV = 1024  # include/uapi/linux/uio.h

for _name in ("process_vm_readv", "process_vm_writev"):
    _function = getattr(libc, _name)
    _function.restype = ctypes.c_ssize_t
    _function.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    )


def _transfer(name: str, pid: int, runs: Sequence[tuple[int, int]], local: memoryview[int]) -> None:
    """Move every byte of *runs*, in calls of at most ``UIO_MAXIOV`` ranges."""
    function = getattr(libc, name)
    base = ctypes.addressof(ctypes.c_char.from_buffer(local))
    done = 0
    for first in range(0, len(runs), UIO_MAXIOV):
        part = runs[first : first + UIO_MAXIOV]
        wanted = sum(length for _, length in part)
        remote = array.array("Q", [word for run in part for word in run])
        own = array.array("Q", [base + done, wanted])
        moved = check(
            function(pid, own.buffer_info()[0], 1, remote.buffer_info()[0], len(part), 0),
            f"{name}(pid={pid}, start={part[0][0]:#x}, length={wanted})",
        )
        if moved != wanted:
            raise OSError(14, f"{name}(pid={pid}): {moved} of {wanted} bytes from {part[0][0]:#x}")
        done += wanted


def read_runs(pid: int, runs: Sequence[tuple[int, int]], buffer: memoryview[int]) -> None:
    """Fill *buffer* with the bytes of the address ranges *runs*, one after the other.

    Args:
        pid: Task id in our own pid namespace.
        runs: (start, length) in bytes; their lengths add up to the buffer's.
        buffer: Writable.

    Raises:
        ProcessLookupError: The task has exited.
        OSError: EFAULT when part of a range is not mapped readable.

    Source: man 2 process_vm_readv.
    """
    _transfer("process_vm_readv", pid, runs, buffer)


def write_runs(pid: int, runs: Sequence[tuple[int, int]], data: memoryview[int]) -> None:
    """Write *data* over the address ranges *runs*; the mappings must be writable.

    Raises:
        ProcessLookupError: The task has exited.
        OSError: EFAULT when part of a range is not mapped writable.

    Source: man 2 process_vm_writev.
    """
    _transfer("process_vm_writev", pid, runs, data)


def read(pid: int, start: int, length: int) -> bytes:
    """Return the bytes of ``[start, start + length)`` of a task."""
    buffer = bytearray(length)
    read_runs(pid, [(start, length)], memoryview(buffer))
    return bytes(buffer)


def write(pid: int, start: int, data: bytes) -> None:
    """Write *data* at *start* in a task."""
    write_runs(pid, [(start, len(data))], memoryview(bytearray(data)))
