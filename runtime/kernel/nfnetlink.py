"""nfnetlink: the packet filter nf_tables and the connection tracker, in messages as they come."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable

from runtime.kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    Netlink,
    attributes,
    pack_attributes,
)

# include/uapi/linux/netfilter/nfnetlink.h
NFNL_SUBSYS_CTNETLINK, NFNL_SUBSYS_CTNETLINK_EXP = 1, 2
NFNL_SUBSYS_IPSET, NFNL_SUBSYS_NFTABLES = 6, 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFGENMSG = struct.Struct(">BBH")  # family, version, resource

# include/uapi/linux/netfilter/nf_tables.h
NFT_MSG_NEWTABLE, NFT_MSG_GETTABLE, NFT_MSG_DELTABLE = 0, 1, 2
NFT_MSG_NEWCHAIN, NFT_MSG_GETCHAIN = 3, 4
NFT_MSG_NEWRULE, NFT_MSG_GETRULE = 6, 7
NFT_MSG_NEWSET, NFT_MSG_GETSET = 9, 10
NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM = 12, 13
NFT_MSG_NEWOBJ, NFT_MSG_GETOBJ = 18, 19
NFT_MSG_NEWFLOWTABLE, NFT_MSG_GETFLOWTABLE = 22, 23

# include/uapi/linux/netfilter/nfnetlink_conntrack.h
IPCTNL_MSG_CT_NEW, IPCTNL_MSG_CT_GET, IPCTNL_MSG_EXP_GET = 0, 1, 1

_ABSENT = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


class Netfilter:
    """Messages of one of netfilter's subsystems in a network namespace.

    Args:
        path: The namespace, as a path such as ``/proc/PID/ns/net``.
        subsystem: ``NFNL_SUBSYS_*``.

    Source: include/uapi/linux/netfilter/nfnetlink.h.
    """

    def __init__(self, path: str, subsystem: int) -> None:
        self._path = path
        self._subsystem = subsystem

    def list(
        self, request: int, family: int = 0, given: Iterable[tuple[int, bytes]] = ()
    ) -> list[Message]:
        """What the kernel lists for a request; nothing when it lacks the subsystem."""
        body = NFGENMSG.pack(family, 0, 0) + pack_attributes(given)
        try:
            with Netlink(NETLINK_NETFILTER, self._path) as netlink:
                return netlink.dump(self._subsystem << 8 | request, body)
        except OSError as exc:
            if exc.errno in _ABSENT:
                return []
            raise

    def add(self, request: int, body: bytes) -> None:
        """Make one object.

        Raises:
            OSError: The kernel refused.
        """
        with Netlink(NETLINK_NETFILTER, self._path) as netlink:
            netlink.ask(self._subsystem << 8 | request, body, NLM_F_CREATE | NLM_F_EXCL)

    def apply(self, messages: Iterable[tuple[int, int, bytes]]) -> None:
        """Apply (request, flags, body) messages as one transaction.

        Raises:
            OSError: The kernel refused one; nothing has changed.
        """
        batch = NFGENMSG.pack(0, 0, self._subsystem)
        wrapped = [
            (self._subsystem << 8 | request, flags | NLM_F_ACK, body)
            for request, flags, body in messages
        ]
        with Netlink(NETLINK_NETFILTER, self._path) as netlink:
            netlink.transact(
                [(NFNL_MSG_BATCH_BEGIN, 0, batch), *wrapped, (NFNL_MSG_BATCH_END, 0, batch)],
                acks=len(wrapped),
            )


def family_of(body: bytes) -> int:
    """The protocol family of a message."""
    family: int = NFGENMSG.unpack_from(body)[0]
    return family


def attributes_of(body: bytes) -> dict[int, bytes]:
    """The attributes of a message."""
    return dict(attributes(body[NFGENMSG.size :]))


def keep(body: bytes, kept: frozenset[int]) -> bytes:
    """A message with some of its attributes only."""
    found = attributes(body[NFGENMSG.size :], mask=0xFFFF)
    given = pack_attributes(pair for pair in found if pair[0] & 0x3FFF in kept)
    return NFGENMSG.pack(family_of(body), 0, 0) + given
