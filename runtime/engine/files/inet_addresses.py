"""Addresses and checks that restoring Internet sockets shares."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import replace

from formats.records.inet import InetAddress, InetSocket, TcpState
from runtime.errors import RestoreError
from runtime.kernel.inet_diag import TCP_CLOSE, TCP_CLOSING, TCP_LISTEN, Endpoint, plain_host
from runtime.kernel.inet_options import IPPROTO_UDPLITE

_SIZES = {int(socket.AF_INET): 4, int(socket.AF_INET6): 16}
_PROTOCOLS = {
    int(socket.SOCK_STREAM): (socket.IPPROTO_TCP,),
    int(socket.SOCK_DGRAM): (
        socket.IPPROTO_UDP,
        IPPROTO_UDPLITE,
        socket.IPPROTO_ICMP,
        socket.IPPROTO_ICMPV6,
    ),
    int(socket.SOCK_RAW): tuple(range(256)),
}

Sockaddr = tuple[str, int] | tuple[str, int, int, int]


def checked(record: InetSocket) -> InetSocket:
    """A record that is no surprise to what follows.

    Raises:
        RestoreError: It contradicts itself.
    """
    size = _SIZES.get(record.family, 0)
    addresses = [a for a in (record.local, record.remote) if a is not None]
    connected = record.state not in (TCP_CLOSE, TCP_LISTEN)
    stream = record.kind == socket.SOCK_STREAM
    fine = (
        record.protocol in _PROTOCOLS.get(record.kind, ())
        and all(len(a.host) == size and 0 <= a.port < 1 << 16 for a in addresses)
        and 0 < record.state <= TCP_CLOSING
        and (not connected or record.remote is not None)
        and (not stream or not connected or (record.tcp is not None and record.local is not None))
        and (stream or record.tcp is None)
        and (record.state != TCP_LISTEN or (stream and record.local is not None))
        and 0 <= record.shutdown <= 3
        and all(len(d.sender.host) == size for d in record.queue)
        and all(len(m.group) == size for m in record.memberships)
        and (record.tcp is None or _fits(record.tcp))
    )
    if not fine:
        raise RestoreError(
            f"the socket of file {record.file_id} is in no state that a socket can be in",
            reason="image-inconsistent",
        )
    return record


def _fits(tcp: TcpState) -> bool:
    words = (tcp.send_seq, tcp.receive_seq, tcp.timestamp, *tcp.window)
    return (
        all(0 <= word < 1 << 32 for word in words)
        and len(tcp.window) in (0, 5)
        and 0 <= tcp.unsent <= sum(map(len, tcp.sent))
        and -1 <= tcp.send_scale <= 14
        and 0 <= tcp.receive_scale <= 14
        and 0 <= tcp.mss < 1 << 16
    )


def closed(record: InetSocket) -> InetSocket:
    """A connection as it looks when it has ended."""
    return replace(record, state=TCP_CLOSE, remote=None, shutdown=3, tcp=TcpState())


def sockaddr(address: InetAddress) -> Sockaddr:
    """An address as the socket module has it; scopes are those of the current namespace."""
    if len(address.host) == 4:
        return socket.inet_ntop(socket.AF_INET, address.host), address.port
    host = socket.inet_ntop(socket.AF_INET6, address.host)
    scope = 0
    if address.scope:
        try:
            scope = socket.if_nametoindex(address.scope)
        except OSError:
            raise RestoreError(
                f"a socket's address {host} belongs to interface {address.scope}, which is not"
                " there",
                reason="net-interface",
            ) from None
    return host, address.port, address.flow, scope


def ends_of(record: InetSocket) -> tuple[Endpoint, Endpoint]:
    """Both ends of a connection as packets have them, local first."""
    assert record.local is not None and record.remote is not None
    return (
        (plain_host(record.local.host), record.local.port),
        (plain_host(record.remote.host), record.remote.port),
    )


def new_socket(record: InetSocket) -> socket.socket:
    """A fresh socket of a record's kind in the current network namespace, with its owner."""
    sock = socket.socket(record.family, record.kind, record.protocol)
    try:
        os.fchown(sock.fileno(), record.uid, record.gid)
        with contextlib.suppress(PermissionError):
            os.fchmod(sock.fileno(), record.mode & 0o7777)
    except BaseException:
        sock.close()
        raise
    return sock
