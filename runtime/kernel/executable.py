"""A program without a name: a memfd that may be executed."""

from __future__ import annotations

import errno
import os
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
