"""sock_diag(7): what the kernel knows about Internet sockets, those without a descriptor too."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from runtime.kernel.netlink import NETLINK_SOCK_DIAG, Netlink, attributes

SOCK_DIAG_BY_FAMILY = 20  # include/uapi/linux/sock_diag.h

# include/uapi/linux/inet_diag.h
INET_DIAG_SHUTDOWN = 8
_ALL_STATES = 0xFFFFFFFF

# include/net/tcp_states.h
TCP_ESTABLISHED, TCP_SYN_SENT, TCP_SYN_RECV, TCP_FIN_WAIT1, TCP_FIN_WAIT2 = 1, 2, 3, 4, 5
TCP_TIME_WAIT, TCP_CLOSE, TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_LISTEN, TCP_CLOSING = range(6, 12)

_REQUEST = struct.Struct("=BBBxI48x")
_MESSAGE = struct.Struct("=BBxxHH16s16sI8xIIIII")

Endpoint = tuple[bytes, int]
"""An address (IPv4 also where an IPv6 socket uses it) and a port."""


@dataclass(frozen=True, slots=True)
class InetInfo:
    """One Internet socket.

    Attributes:
        family: AF_INET or AF_INET6.
        state: TCP_*.
        local: Where it is bound.
        remote: Where it is connected; the port is 0 when it is not.
        receive_queue: Bytes waiting, FIN counted; connections waiting at a listening socket.
        send_queue: Bytes not acknowledged, FIN counted; the backlog of a listening socket.
        uid: Owner.
        inode: Of the socket; 0 for one that no process has, any more or yet.
        shutdown: RCV_SHUTDOWN 1 and SEND_SHUTDOWN 2.
    """

    family: int
    state: int
    local: Endpoint
    remote: Endpoint
    receive_queue: int
    send_queue: int
    uid: int
    inode: int
    shutdown: int


def inet_sockets(path: str, protocol: int) -> list[InetInfo]:
    """All sockets of a protocol (IPPROTO_TCP, IPPROTO_UDP, ...) in a network namespace.

    Empty when the kernel has no module for the protocol.

    Source: man 7 sock_diag, include/uapi/linux/inet_diag.h.
    """
    found: list[InetInfo] = []
    with Netlink(NETLINK_SOCK_DIAG, path) as diag:
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _REQUEST.pack(family, protocol, 1 << (INET_DIAG_SHUTDOWN - 1), _ALL_STATES)
            try:
                found += (_info(message.body) for message in diag.dump(SOCK_DIAG_BY_FAMILY, body))
            except FileNotFoundError:  # how sock_diag says that it does not know the protocol
                continue
    return found


def _info(body: bytes) -> InetInfo:
    family, state, sport, dport, src, dst, _, _, rqueue, wqueue, uid, inode = _MESSAGE.unpack_from(
        body
    )
    said = dict(attributes(body[_MESSAGE.size :]))
    size = 4 if family == socket.AF_INET else 16
    return InetInfo(
        family=family,
        state=state,
        local=(plain_host(src[:size]), socket.ntohs(sport)),
        remote=(plain_host(dst[:size]), socket.ntohs(dport)),
        receive_queue=rqueue,
        send_queue=wqueue,
        uid=uid,
        inode=inode,
        shutdown=said.get(INET_DIAG_SHUTDOWN, b"\0")[0],
    )


_MAPPED = bytes(10) + b"\xff\xff"


def plain_host(host: bytes) -> bytes:
    """An address with ``::ffff:a.b.c.d`` as the IPv4 address that it stands for."""
    return host[12:] if len(host) == 16 and host.startswith(_MAPPED) else host
