"""openat2(2): resolve a path inside a directory that it cannot leave."""

from __future__ import annotations

import ctypes
import os

from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10


class open_how(ctypes.Structure):  # include/uapi/linux/openat2.h
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def openat2(
    dir_fd: int,
    path: str | os.PathLike[str],
    flags: int,
    *,
    mode: int = 0,
    resolve: int = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
) -> int:
    """Open *path* with a constraint on how it may be resolved.

    Args:
        dir_fd: Start of a relative path; with ``RESOLVE_IN_ROOT`` the root of every path and link.
        path: Path to open.
        flags: ``O_*``; close-on-exec is added.
        mode: Permissions for ``O_CREAT``.
        resolve: ``RESOLVE_*``. The default keeps ``..`` and symbolic links inside *dir_fd* and
            refuses the links of /proc that jump anywhere.

    Raises:
        OSError: ELOOP for a link that *resolve* forbids; EXDEV for an escape from RESOLVE_BENEATH;
            otherwise as open(2). EAGAIN, a rename race, is retried here.

    Source: man 2 openat2 (Linux 5.6).
    """
    raw = ctypes.create_string_buffer(os.fsencode(path))
    how = open_how(flags | os.O_CLOEXEC, mode, resolve)
    call = f"openat2({os.fspath(path)!r})"
    while True:
        try:
            return syscall(
                call,
                NR["openat2"],
                dir_fd,
                ctypes.addressof(raw),
                ctypes.addressof(how),
                ctypes.sizeof(how),
            )
        except BlockingIOError:
            continue
