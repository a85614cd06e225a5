"""The C library through ctypes, and the one place that reads ``errno``."""

from __future__ import annotations

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def check(result: int, call: str) -> int:
    """Return *result*; for -1 raise the OSError subclass of errno, naming *call*.

    Args:
        result: What the C function returned.
        call: The call as a person would write it, for the message.

    Raises:
        OSError: *result* is -1. Python picks ``ProcessLookupError``, ``PermissionError`` and so
            on by itself from the number.
    """
    if result == -1:
        err = ctypes.get_errno()
        raise OSError(err, f"{call}: {os.strerror(err)}")
    return result


def syscall(name: str, number: int, *args: int) -> int:
    """Make a system call that the C library has no wrapper for.

    Args:
        name: For the message.
        number: From ``runtime.kernel.numbers``.
        *args: Integers or addresses; each is passed as a 64-bit word.

    Raises:
        OSError: The kernel refused.
    """
    words = [ctypes.c_long(arg) for arg in args]
    return check(libc.syscall(ctypes.c_long(number), *words), name)
