"""Socket options of Internet sockets: which there are, and how long their values are.

Only those that getsockopt(2) shows and setsockopt(2) takes in the same form. Numbers are the
kernel's, from the headers named beside them; the order is the one to set them in.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from runtime.kernel.libc import check, libc

SOL_IP, SOL_SOCKET, SOL_TCP, SOL_UDP = 0, 1, 6, 17
SOL_IPV6, SOL_ICMPV6, SOL_UDPLITE, SOL_RAW = 41, 58, 136, 255
IPPROTO_UDPLITE = 136

_INT = 4
_LONG = 1024  # the most that Python asks for

# include/uapi/asm-generic/socket.h
SO_REUSEADDR, SO_SNDBUF, SO_RCVBUF, SO_REUSEPORT = 2, 7, 8, 15
SO_BINDTODEVICE = 25
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_PEEK_OFF = 32, 33, 42
SO_INCOMING_CPU, SO_LOCK_FILTER, SO_NETNS_COOKIE, SO_BUF_LOCK = 49, 44, 71, 72
SOCK_SNDBUF_LOCK, SOCK_RCVBUF_LOCK = 1, 2

# include/uapi/linux/in.h, in6.h
IP_OPTIONS, IP_FREEBIND, IP_TRANSPARENT, IP_BIND_ADDRESS_NO_PORT = 4, 15, 19, 24
IPV6_V6ONLY, IPV6_TRANSPARENT, IPV6_FREEBIND = 26, 75, 78
MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP, MCAST_MSFILTER = 42, 46, 48

# include/uapi/linux/tcp.h, udp.h
TCP_NODELAY, TCP_CORK, TCP_WINDOW_CLAMP, TCP_QUICKACK = 1, 3, 10, 12
TCP_CONGESTION, TCP_FASTOPEN, TCP_ULP, TCP_FASTOPEN_KEY, TCP_MAXSEG = 13, 23, 31, 33, 2

_IP = (
    (1, _INT),  # IP_TOS
    (2, _INT),  # IP_TTL
    (3, _INT),  # IP_HDRINCL
    (IP_OPTIONS, 40),
    (6, _INT),  # IP_RECVOPTS
    (7, _INT),  # IP_RETOPTS
    (8, _INT),  # IP_PKTINFO
    (10, _INT),  # IP_MTU_DISCOVER
    (11, _INT),  # IP_RECVERR
    (12, _INT),  # IP_RECVTTL
    (13, _INT),  # IP_RECVTOS
    (IP_FREEBIND, _INT),
    (18, _INT),  # IP_PASSSEC
    (IP_TRANSPARENT, _INT),
    (20, _INT),  # IP_RECVORIGDSTADDR
    (21, _INT),  # IP_MINTTL
    (22, _INT),  # IP_NODEFRAG
    (23, _INT),  # IP_CHECKSUM
    (IP_BIND_ADDRESS_NO_PORT, _INT),
    (25, _INT),  # IP_RECVFRAGSIZE
    (26, _INT),  # IP_RECVERR_RFC4884
    (50, _INT),  # IP_UNICAST_IF
    (51, _INT),  # IP_LOCAL_PORT_RANGE
)
_IPV6 = (
    (2, _INT),  # IPV6_2292PKTINFO
    (3, _INT),  # IPV6_2292HOPOPTS
    (4, _INT),  # IPV6_2292DSTOPTS
    (5, _INT),  # IPV6_2292RTHDR
    (8, _INT),  # IPV6_2292HOPLIMIT
    (11, _INT),  # IPV6_FLOWINFO
    (16, _INT),  # IPV6_UNICAST_HOPS
    (23, _INT),  # IPV6_MTU_DISCOVER
    (25, _INT),  # IPV6_RECVERR
    (30, _INT),  # IPV6_ROUTER_ALERT_ISOLATE
    (IPV6_V6ONLY, _INT),
    (31, _INT),  # IPV6_RECVERR_RFC4884
    (33, _INT),  # IPV6_FLOWINFO_SEND
    (36, _INT),  # IPV6_HDRINCL
    (49, _INT),  # IPV6_RECVPKTINFO
    (51, _INT),  # IPV6_RECVHOPLIMIT
    (53, _INT),  # IPV6_RECVHOPOPTS
    (54, _LONG),  # IPV6_HOPOPTS
    (55, _LONG),  # IPV6_RTHDRDSTOPTS
    (56, _INT),  # IPV6_RECVRTHDR
    (57, _LONG),  # IPV6_RTHDR
    (58, _INT),  # IPV6_RECVDSTOPTS
    (59, _LONG),  # IPV6_DSTOPTS
    (60, _INT),  # IPV6_RECVPATHMTU
    (62, _INT),  # IPV6_DONTFRAG
    (66, _INT),  # IPV6_RECVTCLASS
    (67, _INT),  # IPV6_TCLASS
    (70, _INT),  # IPV6_AUTOFLOWLABEL
    (72, _INT),  # IPV6_ADDR_PREFERENCES
    (73, _INT),  # IPV6_MINHOPCOUNT
    (74, _INT),  # IPV6_RECVORIGDSTADDR
    (IPV6_TRANSPARENT, _INT),
    (76, _INT),  # IPV6_UNICAST_IF
    (77, _INT),  # IPV6_RECVFRAGSIZE
    (IPV6_FREEBIND, _INT),
)
# Streams answer these too, but cannot be told
_IP_MULTICAST = (
    (32, _INT),  # IP_MULTICAST_IF
    (33, _INT),  # IP_MULTICAST_TTL
    (34, _INT),  # IP_MULTICAST_LOOP
    (49, _INT),  # IP_MULTICAST_ALL
)
_IPV6_MULTICAST = (
    (17, _INT),  # IPV6_MULTICAST_IF
    (18, _INT),  # IPV6_MULTICAST_HOPS
    (19, _INT),  # IPV6_MULTICAST_LOOP
    (29, _INT),  # IPV6_MULTICAST_ALL
)
_SOCKET = (
    (1, _INT),  # SO_DEBUG
    (SO_REUSEADDR, _INT),
    (5, _INT),  # SO_DONTROUTE
    (6, _INT),  # SO_BROADCAST
    (9, _INT),  # SO_KEEPALIVE
    (10, _INT),  # SO_OOBINLINE
    (11, _INT),  # SO_NO_CHECK
    (12, _INT),  # SO_PRIORITY; after IP_TOS, which sets it too
    (13, 8),  # SO_LINGER
    (SO_REUSEPORT, _INT),
    (18, _INT),  # SO_RCVLOWAT; before SO_RCVBUF, which it may raise
    (20, 16),  # SO_RCVTIMEO
    (21, 16),  # SO_SNDTIMEO
    (29, _INT),  # SO_TIMESTAMP
    (35, _INT),  # SO_TIMESTAMPNS
    (63, _INT),  # SO_TIMESTAMP_NEW
    (64, _INT),  # SO_TIMESTAMPNS_NEW
    (37, 8),  # SO_TIMESTAMPING
    (65, 8),  # SO_TIMESTAMPING_NEW
    (36, _INT),  # SO_MARK
    (40, _INT),  # SO_RXQ_OVFL
    (41, _INT),  # SO_WIFI_STATUS
    (SO_PEEK_OFF, _INT),
    (43, _INT),  # SO_NOFCS
    (45, _INT),  # SO_SELECT_ERR_QUEUE
    (46, _INT),  # SO_BUSY_POLL
    (47, 8),  # SO_MAX_PACING_RATE
    (SO_INCOMING_CPU, _INT),
    (60, _INT),  # SO_ZEROCOPY
    (61, 8),  # SO_TXTIME
    (69, _INT),  # SO_PREFER_BUSY_POLL
    (70, _INT),  # SO_BUSY_POLL_BUDGET
    (74, _INT),  # SO_TXREHASH
    (75, _INT),  # SO_RCVMARK
    (82, _INT),  # SO_RCVPRIORITY
    (SO_SNDBUF, _INT),
    (SO_RCVBUF, _INT),
    (SO_BUF_LOCK, _INT),
    (SO_LOCK_FILTER, _INT),
)
_TCP = (
    (4, _INT),  # TCP_KEEPIDLE
    (5, _INT),  # TCP_KEEPINTVL
    (6, _INT),  # TCP_KEEPCNT
    (7, _INT),  # TCP_SYNCNT
    (8, _INT),  # TCP_LINGER2
    (9, _INT),  # TCP_DEFER_ACCEPT
    (TCP_WINDOW_CLAMP, _INT),
    (TCP_CONGESTION, 16),
    (16, _INT),  # TCP_THIN_LINEAR_TIMEOUTS
    (18, _INT),  # TCP_USER_TIMEOUT
    (25, _INT),  # TCP_NOTSENT_LOWAT
    (27, _INT),  # TCP_SAVE_SYN
    (30, _INT),  # TCP_FASTOPEN_CONNECT
    (34, _INT),  # TCP_FASTOPEN_NO_COOKIE
    (36, _INT),  # TCP_INQ
    (37, _INT),  # TCP_TX_DELAY
    (44, _INT),  # TCP_RTO_MAX_MS
    (45, _INT),  # TCP_RTO_MIN_US
    (46, _INT),  # TCP_DELACK_MAX_US
    (TCP_NODELAY, _INT),
    (TCP_CORK, _INT),
    (TCP_QUICKACK, _INT),
)
_TCP_IDLE = ((TCP_MAXSEG, _INT), (TCP_FASTOPEN, _INT), (TCP_FASTOPEN_KEY, 32))
_UDP = (
    (100, _INT),  # UDP_ENCAP
    (101, _INT),  # UDP_NO_CHECK6_TX
    (102, _INT),  # UDP_NO_CHECK6_RX
    (103, _INT),  # UDP_SEGMENT
    (104, _INT),  # UDP_GRO
    (1, _INT),  # UDP_CORK
)
_UDPLITE = ((10, _INT), (11, _INT))  # UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV

Known = tuple[int, int, int]
"""Level, option, bytes of its value."""


def options_of(sock: socket.socket) -> list[Known]:
    """The options that a socket of this kind answers to, in the order to set them."""
    stream = sock.type == socket.SOCK_STREAM
    candidates = [(SOL_IP, *o) for o in (*_IP, *_IP_MULTICAST * (not stream))]
    if sock.family == socket.AF_INET6:
        candidates += [(SOL_IPV6, *o) for o in (*_IPV6, *_IPV6_MULTICAST * (not stream))]
    candidates += [(SOL_SOCKET, *o) for o in _SOCKET]
    if stream:
        candidates += [(SOL_TCP, *o) for o in (*_TCP_IDLE, *_TCP)]
    elif sock.type == socket.SOCK_RAW:
        # ICMP_FILTER, IPV6_CHECKSUM, ICMPV6_FILTER
        candidates += [(SOL_RAW, 1, 4), (SOL_RAW, 7, 4), (SOL_ICMPV6, 1, 32)]
    elif sock.proto == socket.IPPROTO_UDP:
        candidates += [(SOL_UDP, *o) for o in _UDP]
    elif sock.proto == IPPROTO_UDPLITE:
        candidates += [(SOL_UDPLITE, *o) for o in _UDPLITE]
    return [known for known in candidates if read_option(sock, known) is not None]


def read_option(sock: socket.socket, known: Known) -> bytes | None:
    """The value of an option; None when the socket does not have it (now)."""
    try:
        return sock.getsockopt(*known)
    except OSError:
        return None


def is_idle_option(known: Known) -> bool:
    """Whether an option means something else, or nothing, once a connection stands."""
    return known[0] == SOL_TCP and known[1:] in _TCP_IDLE


def ask_with_request(
    sock: socket.socket, level: int, option: int, request: bytes, room: int
) -> bytes | None:
    """getsockopt(2) for an option whose value says, on the way in, what is asked for.

    Returns:
        The answer, in place of *request* and up to *room* bytes behind it; None when there is
        nothing of that kind.

    Raises:
        OSError: The kernel refused for another reason than that.
    """
    buffer = ctypes.create_string_buffer(request, len(request) + room)
    length = ctypes.c_uint(len(buffer))
    try:
        check(
            libc.getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(length)),
            f"getsockopt({level}, {option})",
        )
    except OSError as exc:
        if exc.errno in (errno.EADDRNOTAVAIL, errno.ENOPROTOOPT, errno.EINVAL, errno.ENODEV):
            return None
        raise
    return buffer.raw


def disconnect(sock: socket.socket) -> None:
    """Take a datagram socket's peer away: connect(2) to an address of no family.

    Source: man 2 connect. Python's own connect knows no such address.
    """
    address = struct.pack("=H14x", socket.AF_UNSPEC)
    check(libc.connect(sock.fileno(), address, len(address)), "connect(AF_UNSPEC)")
