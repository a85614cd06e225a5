"""A first look at all Internet sockets of a container: which are connected to which.

A connection's other end may be a descriptor of the container too, a connection that a listening
socket of the container has not accepted yet, an end that was closed already, or outside.
"""

from __future__ import annotations

import enum
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from formats.records.inet import InetAddress
from runtime.engine.files.kind import Look
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.kind import Scope
from runtime.kernel import inet_diag, inet_options
from runtime.kernel.inet_diag import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    Endpoint,
    InetInfo,
    plain_host,
)
from runtime.kernel.interfaces import interface_names
from runtime.kernel.proc_net import multicast_groups, raw_sockets
from runtime.kernel.tcp_repair import TcpInfo, tcp_info
from runtime.kernel.visit import visiting_path

T = TypeVar("T")

# How sockfs names the protocols that this and its neighbours are about
PROTOCOLS = frozenset(
    name + version for name in (b"TCP", b"UDP", b"RAW", b"PING") for version in (b"\0", b"v6\0")
) | {b"UDP-Lite\0", b"UDPLITEv6\0"}

NOT_CONNECTED = (TCP_CLOSE, TCP_LISTEN)
_ACCEPTABLE = (
    TCP_SYN_RECV,
    TCP_ESTABLISHED,
    TCP_CLOSE_WAIT,
)  # of connections in a listener's queue
_ANY = (bytes(4), bytes(16))


class Peer(enum.Enum):
    """Where the other end of a connection is."""

    HELD = "a descriptor of the container"
    PENDING = "in the queue of a listening socket of the container"
    CLOSED = "closed, and nobody is outside"
    OUTSIDE = "outside"


@dataclass(slots=True)
class Held:
    """An Internet socket that the container has open.

    Attributes:
        file_id: Its file record.
        look: One of its descriptors.
        family: AF_INET or AF_INET6.
        kind: SOCK_*.
        protocol: IPPROTO_*.
        state: TCP_*; of a datagram socket TCP_ESTABLISHED or TCP_CLOSE.
        local: Where it is bound, or None.
        remote: Where it is connected, or None.
        events: What poll(2) says: POLLRDHUP, POLLERR, POLLPRI.
        info: Of a TCP socket.
        peer: Of a TCP connection.
    """

    file_id: int
    look: Look
    family: int
    kind: int
    protocol: int
    state: int
    local: InetAddress | None
    remote: InetAddress | None
    events: int
    info: TcpInfo | None = None
    peer: Peer | None = None

    @property
    def connected(self) -> bool:
        """Whether it is a TCP connection in some state."""
        return self.info is not None and self.state not in NOT_CONNECTED

    @property
    def ends(self) -> tuple[Endpoint, Endpoint]:
        """Both ends of a connection, local first."""
        assert self.local is not None and self.remote is not None
        return endpoint(self.local), endpoint(self.remote)


def endpoint(address: InetAddress) -> Endpoint:
    """An address in the form that packets have it."""
    return plain_host(address.host), address.port


def is_internet(look: Look) -> bool:
    """Whether a descriptor is a socket of a protocol that this is about."""
    try:
        return os.getxattr(look.proc_path, "system.sockprotoname") in PROTOCOLS
    except OSError as exc:
        if exc.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise


class Survey:
    """All Internet sockets of a container, and what surrounds them.

    Attributes:
        held: By file record.
        own: Whether the network namespace is the container's alone.
        scope: The namespace.
        path: The same, as a path of ours.
    """

    def __init__(self, table: FileTable, scope: Scope) -> None:
        self._table = table
        self.scope = scope
        self.path = scope.path
        self.own = not scope.external
        self._names = interface_names(self.path)
        self._diag: dict[int, list[InetInfo]] = {}
        self._local: dict[bytes, bool] = {}
        self._cookie = _cookies(table)[scope.ns_id]
        self.held = {held.file_id: held for held in self._look()}
        self._by_ends = {h.ends: h for h in self.held.values() if h.connected and h.local}
        self._inodes = {h.look.stat.st_ino for h in self.held.values()}
        for held in self._by_ends.values():
            held.peer = self._peer_of(held)

    def meet(self, other: Survey) -> None:
        """Find connections that lead into another network namespace of the container."""
        for held in self._by_ends.values():
            local, remote = held.ends
            if held.peer is Peer.OUTSIDE and (remote, local) in other._by_ends:
                held.peer = Peer.HELD

    # Looking

    def _look(self) -> Iterator[Held]:
        for file_id, group in self._table.looks.items():
            look = group[0]
            if not look.link.startswith("socket:") or not is_internet(look):
                continue
            with socket.socket(fileno=look.duplicate()) as sock:
                cookie = _cookie(sock)
                if cookie != self._cookie:
                    if self.scope.own and cookie not in _cookies(self._table).values():
                        self._table.refuse(
                            look, "fd-netns", "is a socket of a network namespace of others"
                        )
                    continue
                yield self._held(file_id, look, sock)

    def _held(self, file_id: int, look: Look, sock: socket.socket) -> Held:
        local, remote = self._names_of(sock)
        state, info = TCP_ESTABLISHED if remote else TCP_CLOSE, None
        if sock.type == socket.SOCK_STREAM:
            info = tcp_info(sock)
            state = info.state
            if state == TCP_SYN_SENT:
                remote = self._connecting_to(look.stat.st_ino, sock.family)
        elif sock.type == socket.SOCK_RAW or sock.proto in (
            socket.IPPROTO_ICMP,
            socket.IPPROTO_ICMPV6,
        ):
            remote = self._raw_remote(look.stat.st_ino)
            state = TCP_ESTABLISHED if remote else TCP_CLOSE
        return Held(
            file_id=file_id,
            look=look,
            family=sock.family,
            kind=sock.type,
            protocol=sock.proto,
            state=state,
            local=local,
            remote=remote,
            events=events_of(sock),
            info=info,
        )

    def _names_of(self, sock: socket.socket) -> tuple[InetAddress | None, InetAddress | None]:
        local: InetAddress | None = self._address(sock.getsockname(), sock.family)
        assert local is not None
        numbered = sock.type == socket.SOCK_RAW  # its "port" is its protocol
        if local.host in _ANY and (numbered or not local.port):
            local = None
        try:
            remote = self._address(sock.getpeername(), sock.family)
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:
                raise
            return local, None
        return local, remote

    def _address(
        self, name: tuple[str, int] | tuple[str, int, int, int], family: int
    ) -> InetAddress:
        host = socket.inet_pton(family, name[0].partition("%")[0])
        if len(name) == 2:
            return InetAddress(host, name[1])
        _, port, flow, scope = name
        return InetAddress(host, port, flow, self._names.get(scope, "") if scope else "")

    def _connecting_to(self, inode: int, family: int) -> InetAddress | None:
        for info in self.sockets(socket.IPPROTO_TCP):
            if info.inode == inode:
                host, port = info.remote
                if family == socket.AF_INET6 and len(host) == 4:
                    host = bytes(10) + b"\xff\xff" + host
                return InetAddress(host, port)
        return None

    def _raw_remote(self, inode: int) -> InetAddress | None:
        found = self._once("raw-sockets", lambda: raw_sockets(self.path))
        state, host, port = found.get(inode, (TCP_CLOSE, b"", 0))
        return InetAddress(host, port) if state == TCP_ESTABLISHED else None

    def sockets(self, protocol: int) -> list[InetInfo]:
        """All sockets of a protocol in the namespace, whoever has them."""
        if protocol not in self._diag:
            self._diag[protocol] = inet_diag.inet_sockets(self.path, protocol)
        return self._diag[protocol]

    def shutdowns(self, protocol: int) -> dict[int, int]:
        """How sockets of a protocol are shut down, by inode; only of those that are bound."""

        def make() -> dict[int, int]:
            return {info.inode: info.shutdown for info in self.sockets(protocol)}

        return self._once(("shutdowns", protocol), make)

    @cached_property
    def groups(self) -> list[tuple[int, bytes]]:
        """Interface and address of every multicast group that somebody has joined."""
        return list(dict.fromkeys(multicast_groups(self.path)))

    def interface(self, index: int) -> str:
        """The name of an interface, or an empty string."""
        return self._names.get(index, "")

    @property
    def interfaces(self) -> dict[int, str]:
        """Names of the interfaces by index."""
        return self._names

    def _once(self, key: object, make: Callable[[], T]) -> T:
        return self._table.once(("inet", self.scope.ns_id, key), make)

    # Peers

    def peer_of(self, held: Held) -> Held | None:
        """The other end of a connection inside the container, if it is a descriptor too."""
        local, remote = held.ends
        return self._by_ends.get((remote, local))

    def other_end(self, held: Held) -> InetInfo | None:
        """The kernel's view of the other end of a connection within the namespace."""
        local, remote = held.ends
        return self._others().get((remote, local))

    def _others(self) -> dict[tuple[Endpoint, Endpoint], InetInfo]:
        def make() -> dict[tuple[Endpoint, Endpoint], InetInfo]:
            return {(i.local, i.remote): i for i in self.sockets(socket.IPPROTO_TCP)}

        return self._once("tcp-ends", make)

    def _peer_of(self, held: Held) -> Peer:
        if self.peer_of(held) is not None:
            return Peer.HELD
        other = self.other_end(held)
        if other is None:
            return Peer.CLOSED if self.is_local(held.ends[1][0]) else Peer.OUTSIDE
        if other.inode:
            return Peer.OUTSIDE
        if other.state in _ACCEPTABLE:
            return Peer.PENDING if self.listener_of(other.local) else Peer.OUTSIDE
        return Peer.CLOSED if self.own else Peer.OUTSIDE

    def is_local(self, host: bytes) -> bool:
        """Whether an address is one of the namespace's own."""
        if host not in self._local:
            family = socket.AF_INET if len(host) == 4 else socket.AF_INET6
            with visiting_path(self.path, "net"), socket.socket(family, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind((socket.inet_ntop(family, host), 0))
                    self._local[host] = True
                except OSError:
                    self._local[host] = False
        return self._local[host]

    # Listening sockets

    def listener_of(self, end: Endpoint) -> list[Held]:
        """The container's listening sockets that connections to *end* come to."""
        listeners: dict[int, list[Held]] = self._once("tcp-listeners", self._listeners)
        found = listeners.get(end[1], [])
        exact = [h for h in found if h.local and plain_host(h.local.host) == end[0]]
        return exact or [h for h in found if h.local and h.local.host in _ANY]

    def _listeners(self) -> dict[int, list[Held]]:
        found: dict[int, list[Held]] = {}
        for held in self.held.values():
            if held.state == TCP_LISTEN and held.info is not None and held.local is not None:
                found.setdefault(held.local.port, []).append(held)
        return found

    def queued(self) -> Iterator[tuple[InetInfo, list[Held], Held | None]]:
        """Connections not yet accepted: what is known, their listeners, their other end."""
        listeners = [h for h in self.held.values() if h.state == TCP_LISTEN and h.info]
        if not listeners:
            return
        for info in self.sockets(socket.IPPROTO_TCP):
            if info.inode or info.state not in _ACCEPTABLE or not info.remote[1]:
                continue
            owners = self.listener_of(info.local)
            if owners:
                yield info, owners, self._by_ends.get((info.remote, info.local))


def events_of(sock: socket.socket) -> int:
    """What poll(2) says of a socket."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLPRI | select.POLLRDHUP)
    return next((events for _, events in poll.poll(0)), 0)


def _cookies(table: FileTable) -> dict[int, int]:
    """What tells a socket's network namespace, for each of the container's."""

    def make() -> dict[int, int]:
        found = {}
        for scope in table.context.scopes.values():
            if scope.kind == "net":
                with (
                    visiting_path(scope.path, "net"),
                    socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
                ):
                    found[scope.ns_id] = _cookie(ours)
        return found

    return table.once("inet-cookies", make)


def _cookie(sock: socket.socket) -> int:
    raw = sock.getsockopt(inet_options.SOL_SOCKET, inet_options.SO_NETNS_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])


def connections(held: Iterable[Held]) -> list[Held]:
    """The TCP connections among sockets."""
    return [h for h in held if h.connected]


__all__ = ["Held", "Peer", "Survey", "connections", "endpoint", "events_of", "is_internet"]
