"""What a network namespace holds: links, addresses, routes and the like, and sysctls.

Whatever the kernel takes back in the form in which it lists it is kept in that form, as a netlink
message without its header; a reader sends only kinds and attributes that it knows.
"""

from __future__ import annotations

from dataclasses import dataclass

from formats.records.codec import record
from formats.records.files import Owner


@record("net-id")
@dataclass(frozen=True, slots=True)
class NamespaceId:
    """The number by which one network namespace knows another.

    Attributes:
        ns_id: The namespace that knows the other one.
        other_id: ``ns_id`` of the other one.
        number: As in ``ip netns list-id``.
    """

    ns_id: int
    other_id: int
    number: int


@record("net-link")
@dataclass(frozen=True, slots=True)
class Link:
    """A network interface.

    Attributes:
        ns_id: Its namespace.
        index: Its number there, which it gets again.
        name: Its name.
        kind: As ``ip link add type`` names it; empty for the loopback.
        flags: ``IFF_*`` of include/uapi/linux/if.h.
        settings: Attributes that are set if they differ, ``IFLA_*``.
        data: ``IFLA_INFO_DATA`` of its kind.
        lower: Index of the interface it is built on, or of a veth's other end; 0 for none.
        lower_ns_id: Namespace of that one; 0 for its own.
        external: Whether that one (or the interface itself, if it is hardware) is outside of the
            container.
        master: Index of the bridge or the like that it is a port of, or 0.
        port_kind: The master's kind.
        port_data: ``IFLA_INFO_SLAVE_DATA``.
        names: Alternative names.
        tx_queues: Transmission queues.
        rx_queues: Reception queues.
    """

    ns_id: int
    index: int
    name: str
    kind: str
    flags: int
    settings: tuple[tuple[int, bytes], ...] = ()
    data: bytes = b""
    lower: int = 0
    lower_ns_id: int = 0
    external: bool = False
    master: int = 0
    port_kind: str = ""
    port_data: bytes = b""
    names: tuple[str, ...] = ()
    tx_queues: int = 1
    rx_queues: int = 1


@record("net-object")
@dataclass(frozen=True, slots=True)
class NetObject:
    """An address, a route, or something else that the kernel lists as it would take it.

    Attributes:
        ns_id: Its namespace.
        kind: "address", "route", "rule", "neighbour", "proxy", "fdb", "nexthop", "label", "qdisc".
        body: A structure of rtnetlink(7) and its attributes.
    """

    ns_id: int
    kind: str
    body: bytes


@record("net-sysctl")
@dataclass(frozen=True, slots=True)
class NetSysctl:
    """Settings below /proc/sys/net.

    Attributes:
        ns_id: Their namespace.
        values: Path below /proc/sys/net, and the file's content without its last newline.
    """

    ns_id: int
    values: tuple[tuple[str, str], ...]


@record("file-tun")
@dataclass(frozen=True, slots=True)
class TunFile:
    """An open file description of /dev/net/tun.

    Attributes:
        file_id: Id.
        path: Of the device's node in the container.
        flags: open(2) flags.
        ns_id: Network namespace in which it was opened.
        name: Interface that it belongs to; empty for none yet.
        device_ns_id: Namespace of that interface.
        interface_flags: Of TUNGETIFF.
        detached: Whether it is a queue that is switched off.
        send_buffer: TUNSETSNDBUF, bytes.
        header_size: TUNSETVNETHDRSZ, bytes.
        little_endian: TUNSETVNETLE.
        owner: SIGIO's, or None.
    """

    file_id: int
    path: str
    flags: int
    ns_id: int
    name: str = ""
    device_ns_id: int = 0
    interface_flags: int = 0
    detached: bool = False
    send_buffer: int = 0
    header_size: int = 0
    little_endian: bool = False
    owner: Owner | None = None


@record("net-filter")
@dataclass(frozen=True, slots=True)
class NetFilter:
    """An object of nf_tables.

    Attributes:
        ns_id: Its namespace.
        kind: "table", "chain", "object", "flowtable", "set", "element", "rule".
        body: A nfgenmsg and its attributes; those of one kind stand in their order.
    """

    ns_id: int
    kind: str
    body: bytes


@record("net-xtable")
@dataclass(frozen=True, slots=True)
class NetXTable:
    """A table of iptables or ip6tables in its older form.

    Attributes:
        ns_id: Its namespace.
        family: AF_INET 2 or AF_INET6 10.
        name: "filter", "nat" and so on.
        valid_hooks: Bits of the hooks that it has chains for.
        hooks: Offset of each hook's first entry.
        underflows: Offset of each hook's policy.
        count: Number of entries.
        entries: Each a struct ipt_entry or ip6t_entry with matches and target.
    """

    ns_id: int
    family: int
    name: str
    valid_hooks: int
    hooks: tuple[int, ...]
    underflows: tuple[int, ...]
    count: int
    entries: bytes


@record("net-connection")
@dataclass(frozen=True, slots=True)
class NetConnection:
    """An entry of the connection tracker.

    Attributes:
        ns_id: Its namespace.
        body: A nfgenmsg and its attributes.
    """

    ns_id: int
    body: bytes


@record("file-netlink")
@dataclass(frozen=True, slots=True)
class NetlinkSocket:
    """A netlink socket.

    Attributes:
        file_id: Id.
        ns_id: Network namespace that it belongs to.
        kind: SOCK_RAW or SOCK_DGRAM.
        protocol: ``NETLINK_*``.
        flags: open(2) flags.
        port: Its address, nl_pid; 0 for none yet.
        groups: Multicast groups that it listens to.
        peer: nl_pid and nl_groups that it is connected to; zeros for none.
        switches: Options of level SOL_NETLINK that are on.
        options: Options of level SOL_SOCKET.
        filter: Classic BPF program, 8 bytes an instruction.
        filter_locked: SO_LOCK_FILTER.
        uid: Of the socket.
        gid: Of the socket.
        owner: SIGIO's, or None.
    """

    file_id: int
    ns_id: int
    kind: int
    protocol: int
    flags: int
    port: int = 0
    groups: tuple[int, ...] = ()
    peer: tuple[int, int] = (0, 0)
    switches: tuple[int, ...] = ()
    options: tuple[tuple[int, bytes], ...] = ()
    filter: bytes = b""
    filter_locked: bool = False
    uid: int = 0
    gid: int = 0
    owner: Owner | None = None


@dataclass(frozen=True, slots=True)
class PacketMembership:
    """A packet socket's membership: PACKET_ADD_MEMBERSHIP of packet(7).

    Attributes:
        index: Interface.
        count: How often it was added.
        kind: ``PACKET_MR_*``.
        address: Of the link layer.
    """

    index: int
    count: int
    kind: int
    address: bytes


@record("file-packet")
@dataclass(frozen=True, slots=True)
class PacketSocket:
    """A packet socket.

    Attributes:
        file_id: Id.
        ns_id: Network namespace that it belongs to.
        kind: SOCK_RAW, SOCK_DGRAM or SOCK_PACKET.
        flags: open(2) flags.
        protocol: Ethernet protocol that it receives, in the host's byte order; 0 for none.
        index: Interface that it is bound to; 0 for all.
        numbers: Options of level SOL_PACKET that are not zero.
        copy_threshold: PACKET_COPY_THRESH.
        memberships: Groups, promiscuous mode and the like.
        rx_ring: Block size, blocks, frame size, frames, time-out, private size, features; or empty.
        tx_ring: The same.
        fanout: PACKET_FANOUT; 0 for none.
        options: Options of level SOL_SOCKET.
        filter: Classic BPF program, 8 bytes an instruction.
        filter_locked: SO_LOCK_FILTER.
        uid: Of the socket.
        gid: Of the socket.
        owner: SIGIO's, or None.
    """

    file_id: int
    ns_id: int
    kind: int
    flags: int
    protocol: int = 0
    index: int = 0
    numbers: tuple[tuple[int, int], ...] = ()
    copy_threshold: int = 0
    memberships: tuple[PacketMembership, ...] = ()
    rx_ring: tuple[int, ...] = ()
    tx_ring: tuple[int, ...] = ()
    fanout: int = 0
    options: tuple[tuple[int, bytes], ...] = ()
    filter: bytes = b""
    filter_locked: bool = False
    uid: int = 0
    gid: int = 0
    owner: Owner | None = None


@record("net-link-group")
@dataclass(frozen=True, slots=True)
class LinkGroup:
    """A group of the link layer that an interface listens to, whoever else does.

    Attributes:
        ns_id: The interface's namespace.
        name: The interface.
        address: Of the group.
    """

    ns_id: int
    name: str
    address: bytes
