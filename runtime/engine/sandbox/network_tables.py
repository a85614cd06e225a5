"""The tables of a network namespace that the kernel takes back as it lists them.

A table's `normal` form of an entry is what the image keeps: the structure and the attributes that
set something, without counters, ages and what the kernel adds by itself. Its `key` is what makes
two entries the same.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from runtime.kernel import rtnetlink as rt
from runtime.kernel.netlink import (
    NLA_TYPE_MASK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Attributes,
    Message,
    attributes,
    pack_attributes,
    u32,
)

AF_BRIDGE = 7  # include/linux/socket.h
IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type
NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
FIB_RULE_HDR = struct.Struct("=BBBBBBBBI")
NHMSG = struct.Struct("=BBBBI")
IFADDRLBLMSG = struct.Struct("=BxBBII")  # family, prefix length, flags, index, sequence

# include/uapi/linux/if_addr.h
IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_ANYCAST = 1, 2, 3, 4, 5
IFA_CACHEINFO, IFA_FLAGS, IFA_RT_PRIORITY, IFA_PROTO = 6, 8, 9, 11
IFA_F_SECONDARY, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE, IFA_F_PERMANENT = (
    0x1,
    0x8,
    0x20,
    0x40,
    0x80,
)

# include/uapi/linux/rtnetlink.h
RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC = 1, 2, 4, 5, 6, 7
RTA_METRICS, RTA_MULTIPATH, RTA_FLOW, RTA_CACHEINFO, RTA_TABLE = 8, 9, 11, 12, 15
RTA_VIA, RTA_PREF, RTA_ENCAP_TYPE, RTA_ENCAP, RTA_EXPIRES = 18, 20, 21, 22, 23
RTA_TTL_PROPAGATE, RTA_NH_ID = 26, 30
RTM_F_CLONED = 0x200
RTNH_F_PERVASIVE, RTNH_F_ONLINK = 2, 4
RTNEXTHOP = struct.Struct("=HBBi")  # length, flags, hops, index
RTPROT_KERNEL, RTPROT_RA = 2, 9
RTN_UNICAST = 1
RTCACHEINFO_EXPIRES = struct.Struct("=8xi")  # within struct rta_cacheinfo
USER_HZ = 100

# include/uapi/linux/neighbour.h
NDA_DST, NDA_LLADDR, NDA_VLAN, NDA_PORT, NDA_VNI, NDA_IFINDEX, NDA_MASTER = 1, 2, 5, 6, 7, 8, 9
NDA_PROTOCOL, NDA_NH_ID, NDA_FLAGS_EXT = 12, 13, 15
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
NTF_SELF, NTF_PROXY, NTF_EXT_LEARNED, NTF_STICKY = 0x2, 0x8, 0x10, 0x40

TCMSG = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
# include/uapi/linux/rtnetlink.h, pkt_sched.h
TCA_KIND, TCA_OPTIONS, TCA_STAB = 1, 2, 8
TCA_HTB_INIT = 2
TC_H_ROOT, TC_H_INGRESS = 0xFFFFFFFF, 0xFFFFFFF1

FIB_RULE_INVERT = 0x2  # include/uapi/linux/fib_rules.h

Normal = Callable[[bytes], bytes | None]


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a network namespace.

    Attributes:
        name: As in `NetObject.kind`.
        new: Message that adds an entry.
        delete: Message that removes one.
        get: Message that lists them.
        requests: A body per request for the list.
        header: Of an entry.
        flags: For the message that adds one.
        per_link: Whether a request lists those of one interface, whose number stands behind the
            family.
        normal: An entry's normal form; None if it is not the program's.
        passing: Attributes in which two entries may differ and still be the same.
    """

    name: str
    new: int
    delete: int
    get: int
    requests: tuple[bytes, ...]
    header: struct.Struct
    normal: Normal
    flags: int = NLM_F_CREATE | NLM_F_EXCL
    per_link: bool = False
    passing: frozenset[int] = frozenset()

    def entries(self, messages: list[Message]) -> Iterator[bytes]:
        """The normal forms of what a list has brought."""
        for message in messages:
            if message.kind == self.new:
                normal = self.normal(message.body)
                if normal is not None:
                    yield normal

    def key(self, entry: bytes) -> bytes:
        """What is compared of an entry in its normal form."""
        if not self.passing:
            return entry
        head, given = self.split(entry)
        return head + pack_attributes(pair for pair in given if pair[0] not in self.passing)

    def split(self, entry: bytes) -> tuple[bytes, Attributes]:
        """Structure and attributes."""
        return entry[: self.header.size], attributes(entry[self.header.size :])


def _kept(body: bytes, header: struct.Struct, kept: frozenset[int]) -> bytes:
    found = attributes(body[header.size :], mask=0xFFFF)  # strict messages want the flags back
    return pack_attributes(pair for pair in found if pair[0] & NLA_TYPE_MASK in kept)


# Addresses

_ADDRESS = frozenset(
    {
        *(IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_ANYCAST, IFA_CACHEINFO),
        *(IFA_FLAGS, IFA_RT_PRIORITY, IFA_PROTO),
    }
)
_ADDRESS_STATE = IFA_F_SECONDARY | IFA_F_TENTATIVE | IFA_F_DADFAILED | IFA_F_DEPRECATED


def _address(body: bytes) -> bytes | None:
    family, prefix, flags, scope, index = IFADDRMSG.unpack_from(body)
    given = []
    for kind, value in attributes(body[IFADDRMSG.size :]):
        if kind == IFA_FLAGS:
            (flags,) = struct.unpack("=I", value)
            given.append((kind, u32(flags & ~_ADDRESS_STATE)))
        elif kind in _ADDRESS:
            given.append((kind, value))
    if flags & IFA_F_SECONDARY and family == socket.AF_INET6:
        return None  # a temporary address, which the kernel makes and replaces by itself
    head = IFADDRMSG.pack(family, prefix, flags & ~_ADDRESS_STATE & 0xFF, scope, index)
    return head + pack_attributes(given)


# Routes

_ROUTE = frozenset(
    {
        *(RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS),
        *(RTA_MULTIPATH, RTA_FLOW, RTA_TABLE, RTA_VIA, RTA_PREF, RTA_ENCAP_TYPE, RTA_ENCAP),
        *(RTA_EXPIRES, RTA_TTL_PROPAGATE, RTA_NH_ID),
    }
)
_OF_NEXTHOP = frozenset({RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA, RTA_ENCAP_TYPE, RTA_ENCAP})


def _route(body: bytes) -> bytes | None:
    family, dst, src, tos, table, protocol, scope, kind, flags = RTMSG.unpack_from(body)
    if flags & RTM_F_CLONED or (protocol == RTPROT_KERNEL and kind != RTN_UNICAST):
        return None  # the kernel's own, for addresses
    found = attributes(body[RTMSG.size :])
    by_nexthop = any(attribute == RTA_NH_ID for attribute, _ in found)
    given = []
    for attribute, value in found:
        if attribute == RTA_CACHEINFO:
            (expires,) = RTCACHEINFO_EXPIRES.unpack_from(value)
            if expires > 0:
                given.append((RTA_EXPIRES, u32(expires // USER_HZ)))
        elif attribute == RTA_MULTIPATH and not by_nexthop:
            given.append((attribute, _multipath(value)))
        elif attribute in _ROUTE and not (by_nexthop and attribute in _OF_NEXTHOP):
            given.append((attribute, value))
    flags &= RTNH_F_PERVASIVE | RTNH_F_ONLINK
    head = RTMSG.pack(family, dst, src, tos, table, protocol, scope, kind, flags)
    return head + pack_attributes(given)


def _multipath(value: bytes) -> bytes:
    """The next hops without what the kernel has found out about them."""
    result = b""
    while len(value) >= RTNEXTHOP.size:
        length, flags, hops, index = RTNEXTHOP.unpack_from(value)
        if not RTNEXTHOP.size <= length <= len(value):
            raise ValueError(f"a next hop of {length} bytes in {len(value)}")
        flags &= RTNH_F_PERVASIVE | RTNH_F_ONLINK
        padded = length + -length % 4
        result += RTNEXTHOP.pack(length, flags, hops, index) + value[RTNEXTHOP.size : padded]
        value = value[padded:]
    return result


# Rules, next hops, labels

_RULE = frozenset({*range(1, 5), 6, *range(10, 18), *range(19, 31)})
_NEXTHOP = frozenset({*range(1, 10), 11, 12})
_LABEL = frozenset({1, 2})


def _rule(body: bytes) -> bytes:
    *head, flags = FIB_RULE_HDR.unpack_from(body)
    return FIB_RULE_HDR.pack(*head, flags & FIB_RULE_INVERT) + _kept(body, FIB_RULE_HDR, _RULE)


def _nexthop(body: bytes) -> bytes:
    family, _, protocol, _, flags = NHMSG.unpack_from(body)
    flags &= RTNH_F_PERVASIVE | RTNH_F_ONLINK
    head = NHMSG.pack(family, 0, protocol, 0, flags)  # the kernel finds the scope itself
    return head + _kept(body, NHMSG, _NEXTHOP)


def _label(body: bytes) -> bytes:
    family, prefix, flags, index, _ = IFADDRLBLMSG.unpack_from(body)
    return IFADDRLBLMSG.pack(family, prefix, flags, index, 0) + _kept(body, IFADDRLBLMSG, _LABEL)


# Neighbours

_NEIGHBOUR = frozenset({NDA_DST, NDA_LLADDR, NDA_PROTOCOL, NDA_FLAGS_EXT})
_FDB = frozenset({NDA_DST, NDA_LLADDR, NDA_VLAN, NDA_PORT, NDA_VNI, NDA_IFINDEX, NDA_NH_ID})


def _neighbour(body: bytes) -> bytes | None:
    family, index, state, flags, kind = NDMSG.unpack_from(body)
    if not state & NUD_PERMANENT and not flags & NTF_EXT_LEARNED:
        return None  # learned, and learned again
    return NDMSG.pack(family, index, state, flags, kind) + _kept(body, NDMSG, _NEIGHBOUR)


def _proxy(body: bytes) -> bytes | None:
    family, index, _, flags, kind = NDMSG.unpack_from(body)
    if not flags & NTF_PROXY:
        return None
    return NDMSG.pack(family, index, 0, flags, kind) + _kept(body, NDMSG, _NEIGHBOUR)


def _fdb(body: bytes) -> bytes | None:
    family, index, state, flags, kind = NDMSG.unpack_from(body)
    given = dict(attributes(body[NDMSG.size :]))
    if not state & (NUD_NOARP | NUD_PERMANENT) or given.get(NDA_LLADDR, b"")[:1] == b"":
        return None
    if given[NDA_LLADDR][0] & 1 and NDA_DST not in given:
        return None  # a group that somebody listens to; it comes with whoever does
    if given.get(NDA_MASTER) == u32(index):
        flags |= NTF_SELF  # of the bridge itself
    return NDMSG.pack(family, index, state, flags, kind) + _kept(body, NDMSG, _FDB)


# Queueing disciplines

_QUEUE = frozenset({TCA_KIND, TCA_OPTIONS, TCA_STAB})


def _queue(body: bytes) -> bytes | None:
    family, index, handle, parent, _ = TCMSG.unpack_from(body)
    if not handle:
        return None  # the kernel's default
    kept = _kept(body, TCMSG, _QUEUE)
    given = dict(attributes(kept))
    if given.get(TCA_KIND) == b"htb\0" and TCA_OPTIONS in given:
        given[TCA_OPTIONS] = _htb(given[TCA_OPTIONS])
        kept = pack_attributes(given.items())
    return TCMSG.pack(family, index, handle, parent, 0) + kept


def _htb(options: bytes) -> bytes:
    """The kernel lists its whole version, and takes the first half of it only."""
    found = []
    for kind, value in attributes(options):
        if kind == TCA_HTB_INIT and len(value) >= 4:
            (version,) = struct.unpack_from("=I", value)
            number = version >> 16 or version
            found.append((kind, u32(number) + value[4:]))
        else:
            found.append((kind, value))
    return pack_attributes(found)


def _root_queue(body: bytes) -> bytes | None:
    return _queue(body) if TCMSG.unpack_from(body)[3] in (TC_H_ROOT, TC_H_INGRESS) else None


def _leaf_queue(body: bytes) -> bytes | None:
    return None if TCMSG.unpack_from(body)[3] in (TC_H_ROOT, TC_H_INGRESS) else _queue(body)


def _families(header: struct.Struct) -> tuple[bytes, ...]:
    return tuple(bytes([f]) + bytes(header.size - 1) for f in (socket.AF_INET, socket.AF_INET6))


# In the order in which one needs the other
TABLES = (
    Table(
        "address",
        rt.RTM_NEWADDR,
        rt.RTM_DELADDR,
        rt.RTM_GETADDR,
        _families(IFADDRMSG),
        IFADDRMSG,
        _address,
        passing=frozenset({IFA_CACHEINFO}),
    ),
    Table(
        "label",
        rt.RTM_NEWADDRLABEL,
        rt.RTM_DELADDRLABEL,
        rt.RTM_GETADDRLABEL,
        (bytes([socket.AF_INET6]) + bytes(IFADDRLBLMSG.size - 1),),
        IFADDRLBLMSG,
        _label,
    ),
    Table(
        "neighbour",
        rt.RTM_NEWNEIGH,
        rt.RTM_DELNEIGH,
        rt.RTM_GETNEIGH,
        _families(NDMSG),
        NDMSG,
        _neighbour,
    ),
    Table(
        "proxy",
        rt.RTM_NEWNEIGH,
        rt.RTM_DELNEIGH,
        rt.RTM_GETNEIGH,
        tuple(
            NDMSG.pack(family, 0, 0, NTF_PROXY, 0) for family in (socket.AF_INET, socket.AF_INET6)
        ),
        NDMSG,
        _proxy,
    ),
    Table(
        "fdb",
        rt.RTM_NEWNEIGH,
        rt.RTM_DELNEIGH,
        rt.RTM_GETNEIGH,
        (NDMSG.pack(AF_BRIDGE, 0, 0, 0, 0),),
        NDMSG,
        _fdb,
    ),
    Table(
        "nexthop",
        rt.RTM_NEWNEXTHOP,
        rt.RTM_DELNEXTHOP,
        rt.RTM_GETNEXTHOP,
        (bytes(NHMSG.size),),
        NHMSG,
        _nexthop,
    ),
    Table(
        "route",
        rt.RTM_NEWROUTE,
        rt.RTM_DELROUTE,
        rt.RTM_GETROUTE,
        _families(RTMSG),
        RTMSG,
        _route,
        flags=NLM_F_CREATE | NLM_F_APPEND,
        passing=frozenset({RTA_EXPIRES}),
    ),
    Table(
        "rule",
        rt.RTM_NEWRULE,
        rt.RTM_DELRULE,
        rt.RTM_GETRULE,
        _families(FIB_RULE_HDR),
        FIB_RULE_HDR,
        _rule,
    ),
    Table(
        "queue",
        rt.RTM_NEWQDISC,
        rt.RTM_DELQDISC,
        rt.RTM_GETQDISC,
        (bytes(TCMSG.size),),
        TCMSG,
        _root_queue,
        flags=NLM_F_CREATE | NLM_F_REPLACE,
    ),
    Table(
        "class",
        rt.RTM_NEWTCLASS,
        rt.RTM_DELTCLASS,
        rt.RTM_GETTCLASS,
        (bytes(TCMSG.size),),
        TCMSG,
        _queue,
        per_link=True,
    ),
    Table(
        "leaf",
        rt.RTM_NEWQDISC,
        rt.RTM_DELQDISC,
        rt.RTM_GETQDISC,
        (bytes(TCMSG.size),),
        TCMSG,
        _leaf_queue,
        flags=NLM_F_CREATE | NLM_F_REPLACE,
    ),
)
