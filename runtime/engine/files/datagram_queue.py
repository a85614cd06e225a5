"""What UDP sockets hold beside their options: datagrams not yet read, and multicast groups."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from formats.records.inet import Datagram, InetAddress, Membership
from runtime.engine.files.inet_survey import Held, Survey
from runtime.kernel import inet_options as io

_MAX_DATAGRAM = 1 << 16
_IP_PKTINFO, _IPV6_PKTINFO = 8, 50

# struct group_filter: interface, group, mode, count of sources; addresses are sockaddr_storage
_STORAGE = 128
_FILTER = struct.Struct(f"=I4x{_STORAGE}sII")
_MAX_SOURCES = 64
MCAST_EXCLUDE = 0  # include/uapi/linux/in.h


def read_queue(survey: Survey, sock: socket.socket) -> tuple[Datagram, ...]:
    """The datagrams waiting at a socket, which stay there.

    An empty one that somebody has peeked at before is passed over: the kernel shows such a one only
    to who takes it (__skb_try_recv_from_queue in net/core/datagram.c).
    """
    level, option = socket.SOL_SOCKET, io.SO_PEEK_OFF
    before = sock.getsockopt(level, option)
    sock.setsockopt(level, option, 0)
    try:
        return tuple(_peek_all(survey, sock))
    finally:
        sock.setsockopt(level, option, before)


def _peek_all(survey: Survey, sock: socket.socket) -> Iterator[Datagram]:
    flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
    while True:
        try:
            data, ancillary, _, name = sock.recvmsg(_MAX_DATAGRAM, 512, flags)
        except BlockingIOError:
            return
        yield Datagram(data, _sender(survey, sock.family, name), _target(ancillary))


def _sender(survey: Survey, family: int, name: tuple[str, int, int, int]) -> InetAddress:
    host = socket.inet_pton(family, name[0].partition("%")[0])
    if family == socket.AF_INET:
        return InetAddress(host, name[1])
    return InetAddress(host, name[1], name[2], survey.interface(name[3]))


def _target(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """Where a datagram was sent to, if the program itself wants to know."""
    for level, kind, value in ancillary:
        if (level, kind) == (io.SOL_IP, _IP_PKTINFO):
            return value[8:12]
        if (level, kind) == (io.SOL_IPV6, _IPV6_PKTINFO):
            return value[:16]
    return b""


# Multicast


def memberships(survey: Survey, held: Held, sock: socket.socket) -> tuple[Membership, ...]:
    """The groups that a socket has joined.

    The kernel lists groups for a whole namespace; each socket is asked about every one of them.
    """
    size = 4 if held.family == socket.AF_INET else 16
    found = []
    for index, group in survey.groups:
        if len(group) == size:
            answer = _ask(sock, index, group)
            if answer is not None:
                found.append(Membership(group, survey.interface(index), *answer))
    return tuple(found)


def _ask(
    sock: socket.socket, index: int, group: bytes, room: int = _MAX_SOURCES
) -> tuple[bool, tuple[bytes, ...]] | None:
    level = io.SOL_IP if len(group) == 4 else io.SOL_IPV6
    request = _FILTER.pack(index, pack_storage(group), 0, room)
    answer = io.ask_with_request(sock, level, io.MCAST_MSFILTER, request, room * _STORAGE)
    if answer is None:
        return None
    _, _, mode, count = _FILTER.unpack_from(answer)
    if count > room:
        return _ask(sock, index, group, count)
    storages = answer[_FILTER.size : _FILTER.size + count * _STORAGE]
    sources = tuple(
        _host(storages[start : start + _STORAGE], len(group))
        for start in range(0, len(storages), _STORAGE)
    )
    return mode == MCAST_EXCLUDE, sources


def pack_storage(host: bytes) -> bytes:
    """An address as ``struct sockaddr_storage``."""
    if len(host) == 4:
        return struct.pack("=HH4s", socket.AF_INET, 0, host).ljust(_STORAGE, b"\0")
    return struct.pack("=HHI16s", socket.AF_INET6, 0, 0, host).ljust(_STORAGE, b"\0")


def _host(storage: bytes, size: int) -> bytes:
    return storage[4:8] if size == 4 else storage[8:24]


def join(sock: socket.socket, membership: Membership, index: int) -> None:
    """Make a socket a member of a group again.

    Raises:
        OSError: The kernel refused.
    """
    level = io.SOL_IP if len(membership.group) == 4 else io.SOL_IPV6
    group = struct.pack("=I4x", index) + pack_storage(membership.group)
    if membership.exclude:
        sock.setsockopt(level, io.MCAST_JOIN_GROUP, group)
        if membership.sources:
            sources = b"".join(map(pack_storage, membership.sources))
            request = _FILTER.pack(
                index, pack_storage(membership.group), MCAST_EXCLUDE, len(membership.sources)
            )
            sock.setsockopt(level, io.MCAST_MSFILTER, request + sources)
        return
    for source in membership.sources:
        sock.setsockopt(level, io.MCAST_JOIN_SOURCE_GROUP, group + pack_storage(source))
