"""TCP_REPAIR: read and set what a TCP connection consists of.

A socket in repair mode sends nothing, is closed without a word to its peer, and takes an address
that others use. It does receive: who wants it still has to hold its packets off.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# include/uapi/linux/tcp.h
TCP_MAXSEG, TCP_INFO = 2, 11
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS = 19, 20, 21, 22
TCP_TIMESTAMP, TCP_REPAIR_WINDOW = 24, 29
TCP_REPAIR_ON, TCP_REPAIR_OFF, TCP_REPAIR_OFF_NO_WP = 1, 0, -1
TCP_NO_QUEUE, TCP_RECV_QUEUE, TCP_SEND_QUEUE = 0, 1, 2
TCPI_OPT_TIMESTAMPS, TCPI_OPT_SACK, TCPI_OPT_WSCALE = 1, 2, 4

# include/net/tcp.h
TCPOPT_MSS, TCPOPT_WINDOW, TCPOPT_SACK_PERM, TCPOPT_TIMESTAMP = 2, 3, 4, 8

SIOCINQ, SIOCOUTQ, SIOCOUTQNSD = 0x541B, 0x5411, 0x894B  # include/uapi/linux/sockios.h

_TCP = socket.IPPROTO_TCP
_WINDOW = struct.Struct("=5I")


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """The part of ``struct tcp_info`` that is used.

    Attributes:
        state: TCP_*.
        retransmits: Retransmissions of the oldest segment, and unanswered probes.
        options: TCPI_OPT_*.
        send_scale: Window scale of the peer.
        receive_scale: Our window scale.
        unacked: Segments on their way; connections waiting at a listening socket.
        sacked: The backlog of a listening socket.
        bytes_acked: By the peer, since the beginning.
        bytes_received: In order, since the beginning.
        segments_in: Received.
        send_window: Of the peer, in bytes.
    """

    state: int
    retransmits: int
    options: int
    send_scale: int
    receive_scale: int
    unacked: int
    sacked: int
    bytes_acked: int
    bytes_received: int
    segments_in: int
    send_window: int


def tcp_info(sock: socket.socket) -> TcpInfo:
    """Ask for TCP_INFO. Source: man 7 tcp, include/uapi/linux/tcp.h (Linux 5.4)."""
    raw = sock.getsockopt(_TCP, TCP_INFO, 256).ljust(256, b"\0")
    unacked, sacked = struct.unpack_from("=II", raw, 24)
    bytes_acked, bytes_received = struct.unpack_from("=QQ", raw, 120)
    (segments_in,) = struct.unpack_from("=I", raw, 140)
    (send_window,) = struct.unpack_from("=I", raw, 228)
    return TcpInfo(
        state=raw[0],
        retransmits=raw[2] + raw[3],
        options=raw[5],
        send_scale=raw[6] & 15,
        receive_scale=raw[6] >> 4,
        unacked=unacked,
        sacked=sacked,
        bytes_acked=bytes_acked,
        bytes_received=bytes_received,
        segments_in=segments_in,
        send_window=send_window,
    )


@contextlib.contextmanager
def repairing(sock: socket.socket) -> Iterator[None]:
    """Have a socket in repair mode for a ``with`` block; it goes on as it was.

    Raises:
        PermissionError: No CAP_NET_ADMIN over its network namespace, or it is listening.
    """
    reuse = enter_repair(sock)
    try:
        yield
    finally:
        leave_repair(sock, reuse)


def enter_repair(sock: socket.socket) -> int:
    """Switch repair mode on; the socket may then share any port.

    Returns:
        SO_REUSEADDR, which repair mode overwrites, for `leave_repair`.
    """
    reuse = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    sock.setsockopt(_TCP, TCP_REPAIR, TCP_REPAIR_ON)
    return reuse


def leave_repair(sock: socket.socket, reuse: int, *, probe: bool = False) -> None:
    """Switch repair mode off.

    Args:
        sock: A socket in repair mode.
        reuse: SO_REUSEADDR for afterwards.
        probe: Send a window probe, which has the peer say where it is.
    """
    sock.setsockopt(_TCP, TCP_REPAIR, TCP_REPAIR_OFF if probe else TCP_REPAIR_OFF_NO_WP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)


def in_repair(sock: socket.socket) -> bool:
    """Whether a socket is in repair mode."""
    return bool(sock.getsockopt(_TCP, TCP_REPAIR))


def queue_sequence(sock: socket.socket, queue: int) -> int:
    """The sequence number of the end of a queue. The socket is in repair mode."""
    sock.setsockopt(_TCP, TCP_REPAIR_QUEUE, queue)
    return sock.getsockopt(_TCP, TCP_QUEUE_SEQ) & 0xFFFFFFFF


def set_queue_sequence(sock: socket.socket, queue: int, sequence: int) -> None:
    """Set where a queue begins; the socket is in repair mode and not connected."""
    sock.setsockopt(_TCP, TCP_REPAIR_QUEUE, queue)
    sock.setsockopt(_TCP, TCP_QUEUE_SEQ, struct.pack("=I", sequence))


def peek_queue(sock: socket.socket, queue: int, size: int) -> bytes:
    """The content of a queue, at most *size* bytes. The socket is in repair mode."""
    sock.setsockopt(_TCP, TCP_REPAIR_QUEUE, queue)
    try:
        return sock.recv(size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""
    finally:
        sock.setsockopt(_TCP, TCP_REPAIR_QUEUE, TCP_NO_QUEUE)


def fill_queue(sock: socket.socket, queue: int, data: bytes) -> None:
    """Append to a queue. The socket is in repair mode and connected.

    What goes into the send queue counts as sent, and is repeated when nobody acknowledges it.

    Raises:
        OSError: ENOMEM or EAGAIN when the socket's buffer is too small.
    """
    sock.setsockopt(_TCP, TCP_REPAIR_QUEUE, queue)
    try:
        view = memoryview(data)
        while view:
            view = view[sock.send(view[: 1 << 15], socket.MSG_DONTWAIT) :]
    finally:
        sock.setsockopt(_TCP, TCP_REPAIR_QUEUE, TCP_NO_QUEUE)


def queued_bytes(sock: socket.socket, request: int) -> int:
    """SIOCINQ: bytes to read. SIOCOUTQ: not acknowledged. SIOCOUTQNSD: not sent. FIN counts."""
    answer = fcntl.ioctl(sock.fileno(), request, bytes(4))
    return int.from_bytes(answer, "little", signed=True)


def window(sock: socket.socket) -> tuple[int, ...]:
    """``struct tcp_repair_window`` of a socket in repair mode (Linux 4.8)."""
    return _WINDOW.unpack(sock.getsockopt(_TCP, TCP_REPAIR_WINDOW, _WINDOW.size))


def set_window(sock: socket.socket, values: tuple[int, ...]) -> None:
    """Set ``struct tcp_repair_window``.

    Raises:
        OSError: EINVAL when it contradicts the queues.
    """
    sock.setsockopt(_TCP, TCP_REPAIR_WINDOW, _WINDOW.pack(*values))


def set_negotiated(sock: socket.socket, options: dict[int, int]) -> None:
    """Set what a handshake would have agreed on, by TCPOPT_*; before any data is sent."""
    packed = b"".join(struct.pack("=II", option, value) for option, value in options.items())
    sock.setsockopt(_TCP, TCP_REPAIR_OPTIONS, packed)


def renew_segment_size(sock: socket.socket) -> None:
    """Have a connection use the segment size that `set_negotiated` has set.

    The kernel computes it at the connect and when the way to the peer changes; taking IP options
    away, which a fresh socket has none of, has it look again.
    """
    if sock.family == socket.AF_INET6:
        with contextlib.suppress(OSError):  # an IPv4 address in an IPv6 socket
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, b"")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")


def timestamp(sock: socket.socket) -> int:
    """The socket's timestamp clock; its last bit tells microseconds from milliseconds."""
    return sock.getsockopt(_TCP, TCP_TIMESTAMP) & 0xFFFFFFFF


def set_timestamp(sock: socket.socket, value: int) -> None:
    """Set the timestamp clock of a socket in repair mode."""
    sock.setsockopt(_TCP, TCP_TIMESTAMP, struct.pack("=I", value))
