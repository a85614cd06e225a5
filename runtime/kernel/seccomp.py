"""seccomp(2): install a compiled filter."""

from __future__ import annotations

import ctypes

from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR

# include/uapi/linux/seccomp.h
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1 << 0
SECCOMP_FILTER_FLAG_LOG = 1 << 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1 << 2

FILTER_INSTRUCTION_SIZE = 8  # struct sock_filter
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS


class sock_fprog(ctypes.Structure):  # include/uapi/linux/filter.h
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install_filter(program: bytes, flags: int = 0) -> None:
    """Filter our own system calls from now on, and those of our children.

    Args:
        program: Classic BPF, an array of ``struct sock_filter``.
        flags: ``SECCOMP_FILTER_FLAG_*``.

    Raises:
        PermissionError: Neither no_new_privs nor CAP_SYS_ADMIN.
        OSError: EINVAL for a program that the kernel's checker refuses.

    Source: man 2 seccomp (Linux 3.17).
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = sock_fprog(len(program) // FILTER_INSTRUCTION_SIZE, ctypes.addressof(buffer))
    call = f"seccomp(filter of {fprog.len} instructions, flags={flags:#x})"
    syscall(call, NR["seccomp"], SECCOMP_SET_MODE_FILTER, flags, ctypes.addressof(fprog))
