"""Programs without a name: memfds that may be executed, and the smallest thing to put there."""

from __future__ import annotations

import errno
import os
import struct
from typing import Final

MFD_EXEC: Final = 0x10  # include/uapi/linux/memfd.h (Linux 6.3)


def new_executable(name: str, flags: int = 0) -> int:
    """An empty memfd, close-on-exec, for a program to be written to and executed by its descriptor.

    Args:
        name: For whoever looks into /proc.
        flags: Further ones of memfd_create(2).
    """
    flags |= os.MFD_CLOEXEC
    try:
        # Said explicitly where vm.memfd_noexec makes the other the default
        return os.memfd_create(name, flags | MFD_EXEC)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # EINVAL: a kernel before 6.3, where all of them may be
            raise
        return os.memfd_create(name, flags)


def elf_of(code: bytes, machine: int, base: int) -> bytes:
    """A static program of nothing but *code*.

    Args:
        code: Begins with the first instruction to be executed.
        machine: ``EM_...`` of <elf.h>.
        base: Address of the file's first byte; the code stands 120 bytes behind it.

    Source: man 5 elf.
    """
    size = 120 + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096)
    return header + segment + code
