"""userfaultfd(2) in write-protect mode: the kernel notes which pages are written to.

With ``WP_ASYNC`` the kernel resolves the faults itself: a page that is written to just loses its
protection, and PAGEMAP_SCAN (`runtime.kernel.pagemap`) says of which pages that is so. Nobody has
to serve anything, and the program sees nothing of it.

The descriptor belongs to the address space of the task that has made it; whoever else holds it
registers mappings of *that* address space. A fork, an exec and mremap(2) leave the new memory
unregistered, since no events were asked for. The last close unregisters everything.
"""

from __future__ import annotations

import fcntl
import os
import struct

# include/uapi/linux/userfaultfd.h
UFFD_API = 0xAA
UFFD_USER_MODE_ONLY = 1
UFFD_FEATURE_PAGEFAULT_FLAG_WP = 1 << 0
UFFD_FEATURE_WP_HUGETLBFS_SHMEM = 1 << 12
UFFD_FEATURE_WP_UNPOPULATED = 1 << 13
UFFD_FEATURE_WP_ASYNC = 1 << 15  # Linux 6.7
UFFDIO_API = 0xC018AA3F  # _IOWR(0xAA, 0x3F, struct uffdio_api)
UFFDIO_REGISTER = 0xC020AA00  # _IOWR(0xAA, 0, struct uffdio_register)
UFFDIO_REGISTER_MODE_WP = 1 << 1

WRITE_TRACKING = (
    UFFD_FEATURE_PAGEFAULT_FLAG_WP
    | UFFD_FEATURE_WP_HUGETLBFS_SHMEM
    | UFFD_FEATURE_WP_UNPOPULATED
    | UFFD_FEATURE_WP_ASYNC
)
# Handling faults of the kernel's needs a privilege that a task in a container lacks as a rule. No
# fault is handed to anybody here, so it makes no difference.
FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | UFFD_USER_MODE_ONLY


def enable_write_tracking(fd: int) -> None:
    """Say which features are wanted, once, before anything is registered.

    Raises:
        OSError: EINVAL when this kernel lacks one of them.

    Source: man 2 ioctl_userfaultfd, UFFDIO_API.
    """
    fcntl.ioctl(fd, UFFDIO_API, bytearray(struct.pack("QQQ", UFFD_API, WRITE_TRACKING, 0)))


def track_writes(fd: int, start: int, end: int) -> None:
    """Register the mappings in ``[start, end)``; those that are already stay as they are.

    Args:
        fd: From userfaultfd(2), enabled.
        start: Byte address, the start of a mapping.
        end: Byte address, the end of a mapping.

    Raises:
        ProcessLookupError: The address space is gone: exec, or the end of its last task.
        OSError: EBUSY when a mapping is registered with another userfaultfd; EINVAL or EPERM when
            one cannot be registered, or is not there any more.

    Source: man 2 ioctl_userfaultfd, UFFDIO_REGISTER.
    """
    arg = bytearray(struct.pack("QQQQ", start, end - start, UFFDIO_REGISTER_MODE_WP, 0))
    fcntl.ioctl(fd, UFFDIO_REGISTER, arg)
