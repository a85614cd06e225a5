"""personality(2): the execution domain of the calling process."""

from __future__ import annotations

import ctypes

from runtime.kernel.libc import check, libc

# include/uapi/linux/personality.h
PER_LINUX = 0x0000
PER_LINUX32 = 0x0008

_personality = libc.personality
_personality.argtypes = (ctypes.c_ulong,)


def set_personality(persona: int) -> int:
    """Set our personality and return the one before. Source: man 2 personality."""
    return check(_personality(persona), f"personality({persona:#x})")
