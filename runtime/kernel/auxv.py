"""What the kernel tells every process at its start: getauxval(3)."""

from __future__ import annotations

import ctypes

from runtime.kernel.libc import libc

AT_MINSIGSTKSZ = 51  # arch/x86/include/uapi/asm/auxvec.h (Linux 5.14), arm64's likewise

_getauxval = libc.getauxval
_getauxval.restype = ctypes.c_ulong
_getauxval.argtypes = (ctypes.c_ulong,)


def auxiliary_value(kind: int) -> int:
    """One value; 0 when this kernel does not give it."""
    return int(_getauxval(kind))
