"""Ethernet frames as they are: taken down while nobody may answer them, sent again elsewhere.

A frame that a neighbour on the same machine sends may lack its checksum, or be many in one: what
hardware would do is left out when there is none. So each comes with a head that says what is still
to be done.

Source: packet(7); PACKET_VNET_HDR, include/uapi/linux/if_packet.h and virtio_net.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Sequence

from runtime.kernel.packets import checksum
from runtime.kernel.visit import visiting_path

Frame = bytes
"""A struct virtio_net_hdr of 10 bytes, then the frame from the destination's address on."""

ETH_P_ALL, ETH_P_ARP, ETH_P_IPV6 = 0x0003, 0x0806, 0x86DD  # include/uapi/linux/if_ether.h
# include/uapi/linux/if_packet.h
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23
_PACKET_MULTICAST, _PACKET_BROADCAST = 2, 1
_NOTHING_LEFT = bytes(10)  # struct virtio_net_hdr
_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
_BUFFER = 8 << 20
_LARGEST = 1 << 17
_BROADCAST = b"\xff" * 6
_ARP_ETHERNET, _ARP_REQUEST = 1, 1  # RFC 826
_NEIGHBOUR_ADVERTISEMENT, _OVERRIDE, _TARGET_LINK_ADDRESS = 136, 1 << 29, 2  # RFC 4861
_ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
_ICMPV6 = 58


class FrameTap:
    """Takes down what comes in on an interface, from now on. Close it after use.

    Args:
        path: The network namespace, as a path such as ``/proc/PID/ns/net``.
        index: Of the interface.

    Raises:
        OSError: There is no such interface.
    """

    def __init__(self, path: str, index: int) -> None:
        self.index = index
        with visiting_path(path, "net"):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            try:
                self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
                self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
                # Only from here on does it receive anything.
                self._socket.bind((socket.if_indextoname(index), ETH_P_ALL))
            except BaseException:
                self._socket.close()
                raise

    @classmethod
    def of_descriptor(cls, fd: int, index: int) -> FrameTap:
        """One that another process has opened; it owns *fd* then."""
        tap = cls.__new__(cls)
        tap.index = index
        tap._socket = socket.socket(fileno=fd)
        return tap

    def fileno(self) -> int:
        """The descriptor of its socket."""
        return self._socket.fileno()

    def take(self, limit: int) -> list[Frame]:
        """What has come for this interface alone and was not yet taken, oldest first.

        Broadcasts and multicasts reach every host by themselves.

        Args:
            limit: Bytes at most; the rest is thrown away.
        """
        frames: list[Frame] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, sender = self._socket.recvfrom(_LARGEST, socket.MSG_DONTWAIT)
                if sender[2] in (_PACKET_BROADCAST, _PACKET_MULTICAST):
                    continue
                limit -= len(frame)
                if limit >= 0:
                    frames.append(frame)
        return frames

    def close(self) -> None:
        """Stop."""
        self._socket.close()


def send_frames(path: str, index: int, frames: Iterable[Frame]) -> None:
    """Send frames out of an interface.

    Args:
        path: Its network namespace.
        index: Of the interface.
        frames: In this order.

    Raises:
        OSError: There is no such interface.
    """
    with visiting_path(path, "net"):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        name = socket.if_indextoname(index)
    with sock:
        sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        for frame in frames:
            # One that the interface refuses is lost, as on any other wire.
            with contextlib.suppress(OSError):
                sock.sendto(frame, (name, 0))


def announcements(mac: bytes, addresses: Sequence[bytes]) -> list[Frame]:
    """Frames that tell everybody on a wire where addresses are now.

    Args:
        mac: Of the interface that has them.
        addresses: 4 or 16 bytes each.

    Source: a gratuitous ARP request, RFC 5227 section 3; an unsolicited neighbour advertisement,
        RFC 4861 section 7.2.6.
    """
    return [_arp(mac, a) if len(a) == 4 else _advertisement(mac, a) for a in addresses]


def _arp(mac: bytes, address: bytes) -> Frame:
    head = struct.pack(">HHBBH", _ARP_ETHERNET, 0x0800, 6, 4, _ARP_REQUEST)
    body = head + mac + address + bytes(6) + address
    return _NOTHING_LEFT + _BROADCAST + mac + struct.pack(">H", ETH_P_ARP) + body


def _advertisement(mac: bytes, address: bytes) -> Frame:
    def message(found: int) -> bytes:
        head = struct.pack(">BBHI", _NEIGHBOUR_ADVERTISEMENT, 0, found, _OVERRIDE)
        return head + address + struct.pack("BB", _TARGET_LINK_ADDRESS, 1) + mac

    size = len(message(0))
    pseudo = address + _ALL_NODES + struct.pack(">I3xB", size, _ICMPV6)
    head = struct.pack(">IHBB", 6 << 28, size, _ICMPV6, 255) + address + _ALL_NODES
    target = b"\x33\x33" + _ALL_NODES[-4:]
    wire = _NOTHING_LEFT + target + mac + struct.pack(">H", ETH_P_IPV6)
    return wire + head + message(checksum(pseudo + message(0)))
