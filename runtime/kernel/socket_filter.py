"""SO_ATTACH_FILTER: a socket's classic BPF program.

The kernel counts the program in instructions but copies bytes, so Python's getsockopt, which
takes its buffer's size for both, cannot be used.
"""

from __future__ import annotations

import ctypes

from runtime.kernel.libc import check, libc

SOL_SOCKET, SO_ATTACH_FILTER = 1, 26  # include/uapi/asm-generic/socket.h; the same number reads
INSTRUCTION_SIZE = 8
_MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

_getsockopt, _setsockopt = libc.getsockopt, libc.setsockopt


class sock_fprog(ctypes.Structure):  # include/uapi/linux/filter.h
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def get_filter(fd: int) -> bytes:
    """The program attached to a socket, 8 bytes an instruction; empty for none.

    Raises:
        PermissionError: It is an extended BPF program, which cannot be read.

    Source: man 7 socket.
    """
    count = ctypes.c_uint(0)
    check(
        _getsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, None, ctypes.byref(count)),
        f"getsockopt(fd={fd}, SO_GET_FILTER)",
    )
    if not count.value:
        return b""
    buffer = ctypes.create_string_buffer(count.value * INSTRUCTION_SIZE)
    check(
        _getsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, buffer, ctypes.byref(count)),
        f"getsockopt(fd={fd}, SO_GET_FILTER)",
    )
    return buffer.raw


def set_filter(fd: int, program: bytes) -> None:
    """Attach a program to a socket.

    Raises:
        OSError: EINVAL for a malformed program.
        ValueError: Not a whole number of instructions, or too many.
    """
    count, rest = divmod(len(program), INSTRUCTION_SIZE)
    if rest or not 0 < count <= _MAX_INSTRUCTIONS:
        raise ValueError(f"a filter of {len(program)} bytes")
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = sock_fprog(count, ctypes.addressof(buffer))
    check(
        _setsockopt(
            fd, SOL_SOCKET, SO_ATTACH_FILTER, ctypes.byref(fprog), ctypes.sizeof(sock_fprog)
        ),
        f"setsockopt(fd={fd}, SO_ATTACH_FILTER)",
    )
