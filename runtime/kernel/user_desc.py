"""``struct user_desc``: x86 segment descriptors, of set_thread_area(2) and modify_ldt(2)."""

from __future__ import annotations

import ctypes
import struct

from runtime.kernel.libc import check, libc

PTRACE_GET_THREAD_AREA, PTRACE_SET_THREAD_AREA = 25, 26  # arch/x86/include/asm/ptrace-abi.h
GDT_TLS = range(12, 15)  # GDT_ENTRY_TLS_MIN to _MAX on 64-bit, arch/x86/include/asm/segment.h

# entry_number, base_addr, limit, and bit fields, arch/x86/include/uapi/asm/ldt.h
_USER_DESC = struct.Struct("<IIII")
SIZE = _USER_DESC.size
_READ_EXEC_ONLY, _NOT_PRESENT = 1 << 3, 1 << 5

_ptrace = libc.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def thread_areas(tid: int) -> list[bytes]:
    """The thread-local GDT entries of a stopped task that are in use."""
    found = []
    for number in GDT_TLS:
        buffer = ctypes.create_string_buffer(SIZE)
        area = ctypes.addressof(buffer)
        check(_ptrace(PTRACE_GET_THREAD_AREA, tid, number, area), "ptrace(GET_THREAD_AREA)")
        _, base, limit, flags = _USER_DESC.unpack(buffer.raw)
        if base or limit or flags & ~(_READ_EXEC_ONLY | _NOT_PRESENT):
            found.append(buffer.raw)
    return found


def set_thread_area(tid: int, area: bytes) -> None:
    """Set one of them; its number is in it."""
    number = _USER_DESC.unpack(area)[0]
    buffer = ctypes.create_string_buffer(area, SIZE)
    address = ctypes.addressof(buffer)
    check(_ptrace(PTRACE_SET_THREAD_AREA, tid, number, address), "ptrace(SET_THREAD_AREA)")


def from_descriptor(number: int, raw: bytes) -> bytes:
    """The ``user_desc`` of a descriptor as the processor has it, 8 bytes.

    Source: struct desc_struct, arch/x86/include/asm/desc_defs.h.
    """
    (word,) = struct.unpack("<Q", raw)
    base = (word >> 16 & 0xFFFFFF) | (word >> 56 & 0xFF) << 24
    limit = (word & 0xFFFF) | (word >> 48 & 0xF) << 16
    kind = word >> 40 & 0xF
    flags = (
        (word >> 54 & 1)  # seg_32bit
        | (kind >> 2 & 3) << 1  # contents
        | (~kind >> 1 & 1) << 3  # read_exec_only
        | (word >> 55 & 1) << 4  # limit_in_pages
        | (~word >> 47 & 1) << 5  # seg_not_present
        | (word >> 52 & 1) << 6  # useable
    )
    return _USER_DESC.pack(number, base, limit, flags)
