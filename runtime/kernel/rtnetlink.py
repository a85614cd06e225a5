"""rtnetlink(7): links, and the names of the messages for all else."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from runtime.kernel.netlink import (
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Attributes,
    Netlink,
    attributes,
    pack_attributes,
    text,
    u32,
)

# include/uapi/linux/rtnetlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTCLASS, RTM_DELTCLASS, RTM_GETTCLASS = 40, 41, 42
RTM_GETTFILTER = 46
RTM_NEWADDRLABEL, RTM_DELADDRLABEL, RTM_GETADDRLABEL = 72, 73, 74
RTM_NEWNSID, RTM_GETNSID = 88, 90
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106
RTM_NEWLINKPROP = 108

# include/uapi/linux/if_link.h
IFLA_ADDRESS, IFLA_BROADCAST, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 2, 3, 4, 5
IFLA_MASTER, IFLA_TXQLEN, IFLA_LINKMODE, IFLA_LINKINFO = 10, 13, 17, 18
IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK = 20, 26, 27, 28, 29
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES, IFLA_LINK_NETNSID = 31, 32, 37
IFLA_PROTO_DOWN, IFLA_GSO_MAX_SEGS, IFLA_GSO_MAX_SIZE, IFLA_XDP = 39, 40, 41, 43
IFLA_NEW_IFINDEX, IFLA_PROP_LIST, IFLA_ALT_IFNAME, IFLA_GRO_MAX_SIZE = 49, 52, 53, 58
IFLA_GSO_IPV4_MAX_SIZE, IFLA_GRO_IPV4_MAX_SIZE = 63, 64
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_XDP_ATTACHED = 2
VETH_INFO_PEER = 1  # include/uapi/linux/veth.h

# include/uapi/linux/net_namespace.h
NETNSA_NSID, NETNSA_FD = 1, 3

# include/uapi/linux/if.h; those that a program sets
IFF_UP, IFF_LOOPBACK = 1, 1 << 3
IFF_NOARP, IFF_PROMISC, IFF_ALLMULTI, IFF_MULTICAST = 1 << 7, 1 << 8, 1 << 9, 1 << 12
IFF_DEBUG, IFF_NOTRAILERS, IFF_PORTSEL, IFF_AUTOMEDIA, IFF_DYNAMIC = (
    1 << 2,
    1 << 5,
    1 << 13,
    1 << 14,
    1 << 15,
)
IFF_SETTABLE = (
    IFF_NOARP
    | IFF_PROMISC
    | IFF_ALLMULTI
    | IFF_MULTICAST
    | IFF_DEBUG
    | IFF_NOTRAILERS
    | IFF_PORTSEL
    | IFF_AUTOMEDIA
    | IFF_DYNAMIC
)

IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_RTGENMSG = bytes(4)  # struct rtgenmsg, padded


@dataclass(slots=True)
class LinkInfo:
    """A network interface as the kernel lists it.

    Attributes:
        index: Of the interface in its namespace.
        flags: ``IFF_*``.
        values: The attributes, ``IFLA_*``.
        info: What ``IFLA_LINKINFO`` holds, ``IFLA_INFO_*``.
    """

    index: int
    flags: int
    values: dict[int, bytes]
    info: dict[int, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name."""
        return _name(self.values[IFLA_IFNAME])

    @property
    def kind(self) -> str:
        """The name of its kind; empty for the loopback and for hardware."""
        return _name(self.info.get(IFLA_INFO_KIND, b""))

    @property
    def master_kind(self) -> str:
        """The name of its master's kind, or empty."""
        return _name(self.info.get(IFLA_INFO_SLAVE_KIND, b""))

    @property
    def alternative_names(self) -> tuple[str, ...]:
        """More names by which it can be addressed."""
        listed = attributes(self.values.get(IFLA_PROP_LIST, b""))
        return tuple(_name(value) for kind, value in listed if kind == IFLA_ALT_IFNAME)

    @property
    def has_program(self) -> bool:
        """Whether an XDP program is attached."""
        xdp = dict(attributes(self.values.get(IFLA_XDP, b"")))
        return any(xdp.get(IFLA_XDP_ATTACHED, b""))

    def number(self, attribute: int) -> int | None:
        """A signed value of 32 bits, if the kernel gave one."""
        value = self.values.get(attribute)
        return struct.unpack("=i", value)[0] if value is not None else None


def _name(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape")


def links(netlink: Netlink) -> list[LinkInfo]:
    """The interfaces of a namespace, in the order of their index."""
    found = []
    for message in netlink.dump(RTM_GETLINK, IFINFOMSG.pack(0, 0, 0, 0, 0)):
        _, _, index, flags, _ = IFINFOMSG.unpack_from(message.body)
        values = dict(attributes(message.body[IFINFOMSG.size :]))
        info = dict(attributes(values.get(IFLA_LINKINFO, b"")))
        found.append(LinkInfo(index, flags, values, info))
    return sorted(found, key=lambda link: link.index)


def set_link(
    netlink: Netlink, index: int, given: Attributes = (), *, flags: int = 0, change: int = 0
) -> None:
    """Change an interface.

    Args:
        netlink: In its namespace.
        index: Of the interface.
        given: ``IFLA_*`` and their values.
        flags: New values of the flags in *change*, ``IFF_*``.
        change: Flags to set or clear.

    Raises:
        OSError: The kernel refused.
    """
    body = IFINFOMSG.pack(0, 0, index, flags, change) + pack_attributes(given)
    netlink.ask(RTM_NEWLINK, body)


def add_names(netlink: Netlink, index: int, names: tuple[str, ...]) -> None:
    """Give an interface alternative names (Linux 5.5)."""
    listed = pack_attributes((IFLA_ALT_IFNAME, text(name)) for name in names)
    body = IFINFOMSG.pack(0, 0, index, 0, 0) + pack_attributes(
        [(IFLA_PROP_LIST | NLA_F_NESTED, listed)]
    )
    netlink.ask(RTM_NEWLINKPROP, body, NLM_F_CREATE | NLM_F_EXCL)


def namespace_id(netlink: Netlink, fd: int) -> int:
    """The number by which a namespace knows another one, given by a descriptor; -1 for none.

    Source: man 8 ip-netns, include/uapi/linux/net_namespace.h (Linux 4.0).
    """
    body = _RTGENMSG + pack_attributes([(NETNSA_FD, u32(fd))])
    (answer,) = netlink.ask(RTM_GETNSID, body)
    said = dict(attributes(answer.body[len(_RTGENMSG) :]))
    number: int = struct.unpack("=i", said[NETNSA_NSID])[0]
    return number


def set_namespace_id(netlink: Netlink, fd: int, number: int) -> None:
    """Let a namespace know another one by *number*; EEXIST when it has a number already."""
    given = [(NETNSA_FD, u32(fd)), (NETNSA_NSID, struct.pack("=i", number))]
    netlink.ask(RTM_NEWNSID, _RTGENMSG + pack_attributes(given))
