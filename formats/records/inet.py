"""Internet sockets: TCP, UDP, UDP-Lite, raw and ping sockets of both versions."""

from __future__ import annotations

from dataclasses import dataclass

from formats.records.codec import record
from formats.records.files import Owner


@dataclass(frozen=True, slots=True)
class InetAddress:
    """Where a socket is bound or connected.

    Attributes:
        host: 4 or 16 bytes in network order.
        port: Port; the protocol of a raw socket, the identifier of a ping socket.
        flow: IPv6 flow information.
        scope: Name of the interface that a link-local address belongs to, or empty.
    """

    host: bytes
    port: int
    flow: int = 0
    scope: str = ""


@dataclass(frozen=True, slots=True)
class InetOption:
    """A socket option as getsockopt(2) shows it."""

    level: int
    option: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Membership:
    """A multicast group that a socket has joined.

    Attributes:
        group: 4 or 16 bytes in network order.
        device: Name of the interface.
        exclude: Whether ``sources`` are those not wanted; else the only ones wanted.
        sources: Addresses of senders.
    """

    group: bytes
    device: str
    exclude: bool
    sources: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Datagram:
    """A datagram waiting to be read.

    Attributes:
        data: Its payload.
        sender: Where it came from.
        target: The local address that it was sent to where that is known, else empty.
    """

    data: bytes
    sender: InetAddress
    target: bytes = b""


@dataclass(frozen=True, slots=True)
class TcpState:
    """A TCP connection, tcp(7) and ``TCP_REPAIR``.

    Attributes:
        send_seq: Sequence number of the first byte of ``sent``.
        receive_seq: Sequence number of the first byte of ``received``.
        sent: Bytes that the peer has not acknowledged, in pieces.
        unsent: How many of them, at the end, were never sent.
        received: Bytes waiting to be read, in pieces.
        mss: The peer's maximum segment size in bytes.
        send_scale: Window scale of the peer; -1 for a connection without window scaling.
        receive_scale: Our window scale.
        sack: Whether selective acknowledgements are on.
        timestamps: Whether timestamps are on.
        timestamp: Our timestamp clock, ``TCP_TIMESTAMP``.
        window: ``struct tcp_repair_window``: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup.
        outside: Whether the peer is outside of the container.
        pending: Whether the peer is a connection that a listening socket of the container has not
            accepted yet.
    """

    send_seq: int = 0
    receive_seq: int = 0
    sent: tuple[bytes, ...] = ()
    unsent: int = 0
    received: tuple[bytes, ...] = ()
    mss: int = 0
    send_scale: int = -1
    receive_scale: int = 0
    sack: bool = False
    timestamps: bool = False
    timestamp: int = 0
    window: tuple[int, ...] = ()
    outside: bool = False
    pending: bool = False


@record("file-inet")
@dataclass(frozen=True, slots=True)
class InetSocket:
    """An IPv4 or IPv6 socket.

    Attributes:
        file_id: Id.
        family: AF_INET or AF_INET6.
        kind: SOCK_STREAM, SOCK_DGRAM or SOCK_RAW.
        protocol: IPPROTO_*.
        flags: open(2) flags (O_NONBLOCK, O_ASYNC).
        state: As in include/net/tcp_states.h; datagram sockets are TCP_ESTABLISHED (1) when they
            are connected, else TCP_CLOSE (7).
        local: Where it is bound, or None.
        remote: Where it is connected, or None.
        backlog: Of a listening socket.
        waiting: Connections in a listening socket's queue.
        strangers: Addresses of connections in a listening socket's queue whose other end was
            closed already.
        shutdown: 1 no more reads, 2 no more writes, 3 both; only what the state does not imply.
        error: errno that the next call is to get, or 0.
        options: What getsockopt(2) shows.
        device: Interface that it is bound to, or empty.
        filter: Classic BPF program, 8 bytes an instruction.
        memberships: Multicast groups.
        queue: Datagrams waiting to be read, oldest first.
        tcp: Of a TCP connection, else None.
        mode: Permission bits of the socket's inode.
        uid: Owner of the socket's inode, which sharing a port depends on.
        gid: Group of the socket's inode.
        owner: SIGIO's, or None.
        ns_id: Network namespace that it belongs to; 0 for the sandbox's.
    """

    file_id: int
    family: int
    kind: int
    protocol: int
    flags: int
    state: int
    local: InetAddress | None
    remote: InetAddress | None
    backlog: int = 0
    waiting: int = 0
    strangers: tuple[InetAddress, ...] = ()
    shutdown: int = 0
    error: int = 0
    options: tuple[InetOption, ...] = ()
    device: str = ""
    filter: bytes = b""
    memberships: tuple[Membership, ...] = ()
    queue: tuple[Datagram, ...] = ()
    tcp: TcpState | None = None
    mode: int = 0o777
    uid: int = 0
    gid: int = 0
    owner: Owner | None = None
    ns_id: int = 0


@record("network-lock")
@dataclass(frozen=True, slots=True)
class NetworkLock:
    """What holds packets of the saved connections off while no container has them.

    Attributes:
        token: The name of the nftables table that does so on the host of the checkpoint.
    """

    token: str
