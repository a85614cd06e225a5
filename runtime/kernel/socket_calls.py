"""Socket calls that Python's socket module cannot make."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct

from runtime.kernel.libc import check, libc

SO_PEERGROUPS = 59  # include/uapi/asm-generic/socket.h, Linux 4.13
_FEW_GROUPS = 64


def disconnect(fd: int) -> None:
    """Dissolve the connection of a datagram socket (AF_UNSPEC); what waits in it is lost.

    Source: man 2 connect.
    """
    address = struct.pack("H14x", socket.AF_UNSPEC)
    check(libc.connect(fd, address, len(address)), f"connect({fd}, AF_UNSPEC)")


def peer_groups(fd: int) -> tuple[int, ...]:
    """The supplementary groups of a UNIX socket's peer, however many; empty before Linux 4.13.

    Source: man 7 unix, SO_PEERGROUPS.
    """
    count = _FEW_GROUPS
    while True:
        groups = (ctypes.c_uint32 * count)()
        size = ctypes.c_uint32(4 * count)
        if libc.getsockopt(fd, socket.SOL_SOCKET, SO_PEERGROUPS, groups, ctypes.byref(size)) == 0:
            return tuple(groups[: size.value // 4])
        error = ctypes.get_errno()
        if error in (errno.ENODATA, errno.ENOPROTOOPT):
            return ()
        if error != errno.ERANGE:
            raise OSError(error, f"getsockopt({fd}, SO_PEERGROUPS): {os.strerror(error)}")
        count = size.value // 4


def peek_whole_buffers(fd: int, length: int) -> int:
    """How many of the next *length* bytes of a stream lie before the buffer with the last of them.

    A stream socket keeps what one call has sent in buffers of its own, and tells nobody where one
    ends. But a read stops in front of the first one that does not fit into writable memory: so this
    one peeks into memory whose last byte is missing.

    Args:
        fd: A UNIX stream socket; SO_PEEK_OFF says where the bytes begin.
        length: At least 1, and not more than what waits.

    Source: unix_stream_read_generic() in net/unix/af_unix.c.
    """
    room = length - 1 + -(length - 1) % mmap.PAGESIZE
    with mmap.mmap(-1, room + mmap.PAGESIZE) as memory:
        anchor = ctypes.c_char.from_buffer(memory)
        end = ctypes.addressof(anchor) + room
        protected = ctypes.c_void_p(end)
        try:
            check(libc.mprotect(protected, mmap.PAGESIZE, 0), "mprotect")
            flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
            start = ctypes.c_void_p(end - (length - 1))
            found: int = libc.recv(fd, start, ctypes.c_size_t(length), flags)
            if found == -1 and ctypes.get_errno() == errno.EFAULT:
                return 0
            return check(found, f"recv({fd}, MSG_PEEK)")
        finally:
            del anchor  # or the mapping could not be closed
