"""Netlink sockets of others: what /proc/net/netlink lists, and the options of such sockets."""

from __future__ import annotations

import ctypes
import socket
import struct
from dataclasses import dataclass

from runtime.kernel.libc import check, libc
from runtime.kernel.netlink import SOL_NETLINK
from runtime.kernel.visit import visiting_path

# include/uapi/linux/netlink.h
NETLINK_ADD_MEMBERSHIP, NETLINK_LIST_MEMBERSHIPS = 1, 9
NETLINK_PKTINFO, NETLINK_BROADCAST_ERROR, NETLINK_NO_ENOBUFS = 3, 4, 5
NETLINK_LISTEN_ALL_NSID, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 8, 10, 11
NETLINK_GET_STRICT_CHK = 12
SWITCHES = (
    NETLINK_PKTINFO,
    NETLINK_BROADCAST_ERROR,
    NETLINK_NO_ENOBUFS,
    NETLINK_LISTEN_ALL_NSID,
    NETLINK_CAP_ACK,
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
)
_MAX_GROUPS = 4096  # bits; the kernel's families have a few dozen

_getsockopt = libc.getsockopt


@dataclass(frozen=True, slots=True)
class NetlinkInfo:
    """A netlink socket.

    Attributes:
        inode: Of the socket.
        protocol: ``NETLINK_*``.
        port: Its address, nl_pid; 0 when it has none yet.
        received: Bytes of memory that unread messages take.
        dumping: Whether it is in the middle of a list that it has asked for.
    """

    inode: int
    protocol: int
    port: int
    received: int
    dumping: bool


def netlink_sockets(path: str) -> dict[int, NetlinkInfo]:
    """The netlink sockets of a network namespace, by inode.

    Args:
        path: The namespace, as a path such as ``/proc/PID/ns/net``.

    Source: net/netlink/af_netlink.c, netlink_native_seq_show.
    """
    with visiting_path(path, "net"), open("/proc/thread-self/net/netlink") as file:
        lines = [line.split() for line in file][1:]
    found = {}
    for _, protocol, port, _, received, _, dumping, _, _, inode in lines:
        if inode != "0":  # one of the kernel's own
            found[int(inode)] = NetlinkInfo(
                int(inode), int(protocol), int(port), int(received), dumping != "0"
            )
    return found


def switch(sock: socket.socket, option: int) -> bool | None:
    """Whether an option is on; None when this kernel does not have it."""
    try:
        return bool(sock.getsockopt(SOL_NETLINK, option))
    except OSError:
        return None


def memberships(sock: socket.socket) -> tuple[int, ...]:
    """The multicast groups that a socket listens to, by number."""
    buffer = ctypes.create_string_buffer(_MAX_GROUPS // 8)
    length = ctypes.c_uint(len(buffer))
    check(
        _getsockopt(
            sock.fileno(), SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, buffer, ctypes.byref(length)
        ),
        "getsockopt(NETLINK_LIST_MEMBERSHIPS)",
    )
    size = min(length.value, len(buffer)) // 4
    words = struct.unpack_from(f"={size}I", buffer.raw)
    bits = (32 * i + bit for i, word in enumerate(words) for bit in range(32) if word >> bit & 1)
    return tuple(bit + 1 for bit in bits)
