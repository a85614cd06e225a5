"""Packet sockets, packet(7): what sock_diag(7) tells of those of others, and their options."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import Final

from runtime.kernel.libc import check, libc
from runtime.kernel.netlink import NETLINK_SOCK_DIAG, Netlink, attributes

SOCK_DIAG_BY_FAMILY = 20  # include/uapi/linux/sock_diag.h
SOCK_PACKET = 10  # include/linux/net.h
SOL_PACKET = 263  # include/linux/socket.h

# include/uapi/linux/packet_diag.h
PACKET_SHOW_INFO, PACKET_SHOW_MCLIST, PACKET_SHOW_RING_CFG = 0x1, 0x2, 0x4
PACKET_DIAG_INFO, PACKET_DIAG_MCLIST, PACKET_DIAG_RX_RING, PACKET_DIAG_TX_RING = 0, 1, 2, 3
_REQUEST: Final = struct.Struct("=BBHIIII")  # struct packet_diag_req
_MESSAGE: Final = struct.Struct("=BBHIII")  # struct packet_diag_msg
_INFO: Final = struct.Struct("=IIIIII")  # struct packet_diag_info
_MEMBERSHIP: Final = struct.Struct("=IIHH32s")  # struct packet_diag_mclist
_RING: Final = struct.Struct("=7I")  # struct packet_diag_ring

# include/uapi/linux/if_packet.h
PACKET_ADD_MEMBERSHIP, PACKET_RX_RING, PACKET_COPY_THRESH, PACKET_AUXDATA = 1, 5, 7, 8
PACKET_ORIGDEV, PACKET_VERSION, PACKET_RESERVE, PACKET_TX_RING = 9, 10, 12, 13
PACKET_LOSS, PACKET_VNET_HDR, PACKET_TIMESTAMP, PACKET_FANOUT = 14, 15, 17, 18
PACKET_TX_HAS_OFF, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING = 19, 20, 23
PACKET_VNET_HDR_SZ = 24
TPACKET_V3 = 2
PACKET_FANOUT_CBPF, PACKET_FANOUT_EBPF = 6, 7
PACKET_FANOUT_FLAG_UNIQUEID = 0x2000
# To be set in this order, before the rings
NUMBERS = (
    PACKET_VERSION,
    PACKET_RESERVE,
    PACKET_VNET_HDR,
    PACKET_VNET_HDR_SZ,
    PACKET_LOSS,
    PACKET_TX_HAS_OFF,
    PACKET_TIMESTAMP,
    PACKET_AUXDATA,
    PACKET_ORIGDEV,
    PACKET_QDISC_BYPASS,
    PACKET_IGNORE_OUTGOING,
)
_MREQ: Final = struct.Struct("=iHH8s")  # struct packet_mreq
_SOCKADDR_LL: Final = struct.Struct("=H2siHBB8s")
_SOCKADDR: Final = struct.Struct("=H14s")

_bind = libc.bind


@dataclass(slots=True)
class PacketInfo:
    """A packet socket.

    Attributes:
        inode: Of the socket.
        kind: SOCK_RAW, SOCK_DGRAM or SOCK_PACKET.
        protocol: Ethernet protocol that it receives, in the host's byte order; 0 for none.
        index: Interface that it is bound to; 0 for all.
        copy_threshold: PACKET_COPY_THRESH.
        memberships: (interface, count, type, address) of each.
        rx_ring: Block size, blocks, frame size, frames, and for the third version time-out,
            private size, features; empty for no ring.
        tx_ring: The same.
    """

    inode: int
    kind: int
    protocol: int
    index: int = 0
    copy_threshold: int = 0
    memberships: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    rx_ring: tuple[int, ...] = ()
    tx_ring: tuple[int, ...] = ()


def packet_sockets(path: str) -> dict[int, PacketInfo]:
    """The packet sockets of a network namespace, by inode.

    Source: man 7 sock_diag, include/uapi/linux/packet_diag.h.
    """
    show = PACKET_SHOW_INFO | PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG
    request = _REQUEST.pack(socket.AF_PACKET, 0, 0, 0, show, 0, 0)
    with Netlink(NETLINK_SOCK_DIAG, path) as netlink:
        found = [_info(message.body) for message in netlink.dump(SOCK_DIAG_BY_FAMILY, request)]
    return {info.inode: info for info in found}


def _info(body: bytes) -> PacketInfo:
    _, kind, protocol, inode, _, _ = _MESSAGE.unpack_from(body)
    info = PacketInfo(inode, kind, protocol)
    for attribute, value in attributes(body[_MESSAGE.size :]):
        if attribute == PACKET_DIAG_INFO:
            info.index, _, _, info.copy_threshold, _, _ = _INFO.unpack_from(value)
        elif attribute == PACKET_DIAG_MCLIST:
            for index, count, what, length, address in _MEMBERSHIP.iter_unpack(value):
                info.memberships.append((index, count, what, address[:length]))
        elif attribute == PACKET_DIAG_RX_RING:
            info.rx_ring = _RING.unpack_from(value)
        elif attribute == PACKET_DIAG_TX_RING:
            info.tx_ring = _RING.unpack_from(value)
    return info


def number(sock: socket.socket, option: int) -> int | None:
    """An option's value; None when this kernel does not have it."""
    try:
        return sock.getsockopt(SOL_PACKET, option)
    except OSError as exc:
        if exc.errno in (errno.ENOPROTOOPT, errno.EINVAL, errno.EOPNOTSUPP):  # or SOCK_PACKET
            return None
        raise


def set_ring(sock: socket.socket, option: int, ring: tuple[int, ...], version: int) -> None:
    """Make a ring, PACKET_RX_RING or PACKET_TX_RING, that can be mapped.

    Raises:
        OSError: EINVAL for sizes that do not fit each other, ENOMEM.
    """
    words = ring if version == TPACKET_V3 else ring[:4]
    sock.setsockopt(SOL_PACKET, option, struct.pack(f"={len(words)}I", *words))


def join(sock: socket.socket, index: int, what: int, address: bytes) -> None:
    """PACKET_ADD_MEMBERSHIP: a group, promiscuous mode and the like."""
    mreq = _MREQ.pack(index, what, len(address), address)
    sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, mreq)


def bind(sock: socket.socket, protocol: int, index: int, name: str) -> None:
    """Let a packet socket receive.

    Args:
        sock: Not bound before.
        protocol: Ethernet protocol, in the host's byte order; one of type SOCK_PACKET has been
            made with it.
        index: Of the interface; 0 for all.
        name: The interface's name, by which one of type SOCK_PACKET is bound; empty for all.

    Raises:
        OSError: ENODEV for no such interface.
    """
    if sock.type == SOCK_PACKET:
        address = _SOCKADDR.pack(socket.AF_PACKET, os.fsencode(name))
    else:
        wire = struct.pack(">H", protocol)
        address = _SOCKADDR_LL.pack(socket.AF_PACKET, wire, index, 0, 0, 0, b"")
    buffer = ctypes.create_string_buffer(address, len(address))
    check(_bind(sock.fileno(), buffer, len(address)), f"bind(interface {index})")
