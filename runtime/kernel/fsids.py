"""setfsuid(2) and setfsgid(2): the ids that a thread makes files with."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

from runtime.kernel.libc import libc
from runtime.kernel.prctl import PR_GET_SECUREBITS, PR_SET_SECUREBITS, prctl

SECBIT_NO_SETUID_FIXUP = 1 << 2  # include/uapi/linux/securebits.h

_setfsuid = libc.setfsuid
_setfsuid.argtypes = (ctypes.c_uint,)
_setfsgid = libc.setfsgid
_setfsgid.argtypes = (ctypes.c_uint,)


@contextlib.contextmanager
def making_files_as(uid: int, gid: int) -> Iterator[None]:
    """Let this thread make files as somebody else, with all its capabilities.

    A file system that was mounted in a user namespace takes nothing from ids which that lacks:
    EOVERFLOW.

    Source: man 2 setfsuid.
    """
    if not uid and not gid:
        yield
        return
    before = prctl(PR_GET_SECUREBITS)
    prctl(PR_SET_SECUREBITS, before | SECBIT_NO_SETUID_FIXUP)
    old_gid, old_uid = _setfsgid(gid), _setfsuid(uid)
    try:
        yield
    finally:
        _setfsuid(old_uid)
        _setfsgid(old_gid)
        prctl(PR_SET_SECUREBITS, before)
