"""sock_diag(7): what the kernel knows about UNIX sockets."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass, field

from runtime.kernel.netlink import NETLINK_SOCK_DIAG, Netlink, attributes

SOCK_DIAG_BY_FAMILY = 20  # include/uapi/linux/sock_diag.h

# include/uapi/linux/unix_diag.h
UDIAG_SHOW_ALL = 0x7F
UNIX_DIAG_NAME, UNIX_DIAG_VFS, UNIX_DIAG_PEER, UNIX_DIAG_ICONS = 0, 1, 2, 3
UNIX_DIAG_RQLEN, UNIX_DIAG_SHUTDOWN = 4, 6

TCP_ESTABLISHED, TCP_CLOSE, TCP_LISTEN = 1, 7, 10  # include/net/tcp_states.h

_REQUEST = struct.Struct("BBHIIIII")
_MESSAGE = struct.Struct("BBBxIII")


@dataclass(slots=True)
class UnixInfo:
    """One UNIX socket.

    Attributes:
        inode: Of the socket.
        kind: SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET.
        state: TCP_ESTABLISHED, TCP_CLOSE or TCP_LISTEN.
        name: As bound; a leading NUL for abstract names, empty for none.
        file: (inode, device) of the socket's file, or None.
        peer: Inode of the connected socket; 0 for one that nobody has open, None without any.
        pending: Inodes of connections not yet accepted.
        receive_queue: Bytes waiting, or connections of a listening socket.
        send_queue: Bytes sent and not read, or the backlog of a listening socket.
        shutdown: RCV_SHUTDOWN 1 and SEND_SHUTDOWN 2.
    """

    inode: int
    kind: int
    state: int
    name: bytes = b""
    file: tuple[int, int] | None = None
    peer: int | None = None
    pending: tuple[int, ...] = field(default=())
    receive_queue: int = 0
    send_queue: int = 0
    shutdown: int = 0


def unix_sockets(path: str) -> dict[int, UnixInfo]:
    """All UNIX sockets of a network namespace, by inode.

    Args:
        path: The namespace, as a path such as ``/proc/PID/ns/net``.

    Source: man 7 sock_diag, include/uapi/linux/unix_diag.h.
    """
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, UDIAG_SHOW_ALL, 0, 0)
    with Netlink(NETLINK_SOCK_DIAG, path) as diag:
        infos = (_unix_info(message.body) for message in diag.dump(SOCK_DIAG_BY_FAMILY, request))
        return {info.inode: info for info in infos}


def _unix_info(body: bytes) -> UnixInfo:
    _, kind, state, inode, _, _ = _MESSAGE.unpack_from(body)
    info = UnixInfo(inode, kind, state)
    for attribute, value in attributes(body[_MESSAGE.size :]):
        if attribute == UNIX_DIAG_NAME:
            info.name = value if value.startswith(b"\0") else value.rstrip(b"\0")
        elif attribute == UNIX_DIAG_VFS:
            inode, device = struct.unpack("II", value)
            info.file = (inode, os.makedev(device >> 20, device & 0xFFFFF))
        elif attribute == UNIX_DIAG_PEER:
            (info.peer,) = struct.unpack("I", value)
        elif attribute == UNIX_DIAG_ICONS:
            info.pending = struct.unpack(f"{len(value) // 4}I", value)
        elif attribute == UNIX_DIAG_RQLEN:
            info.receive_queue, info.send_queue = struct.unpack("II", value)
        elif attribute == UNIX_DIAG_SHUTDOWN:
            info.shutdown = value[0]
    return info
