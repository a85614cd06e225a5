"""Which network namespace a socket belongs to: not always its owner's."""

from __future__ import annotations

import fcntl
import os

SIOCGSKNS = 0x894C  # include/uapi/linux/sockios.h (Linux 4.10)


def socket_namespace(fd: int) -> int:
    """A descriptor for the network namespace that a socket (or a tun descriptor) was made in.

    Raises:
        PermissionError: No CAP_NET_ADMIN over that namespace.
        OSError: ENOTTY when *fd* is no socket.
    """
    return fcntl.ioctl(fd, SIOCGSKNS)


def socket_namespace_inode(fd: int) -> int:
    """The inode number of that namespace, as in ``/proc/PID/ns/net``."""
    namespace = socket_namespace(fd)
    try:
        return os.fstat(namespace).st_ino
    finally:
        os.close(namespace)
