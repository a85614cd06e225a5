"""Packets that seem to come from a peer, delivered within our own network namespace.

A raw socket sends them to an address of the namespace itself, so they never reach a wire; the
kernel keeps the route that it found when sending, and so does not mind the foreign source address.
"""

from __future__ import annotations

import socket
import struct

from runtime.kernel.inet_diag import Endpoint

# Flags of a TCP segment, RFC 9293
FIN, ACK = 0x01, 0x10

DELIVERY_MARK = 0x77727279  # of all our packets, for those who hold others off
IPPROTO_UDPLITE = 136
_SO_MARK = 36  # include/uapi/asm-generic/socket.h
_IPV6_HDRINCL = 36  # include/uapi/linux/in6.h
_TTL = 64


class PacketSource:
    """Raw sockets of the current network namespace; a context manager."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def send_segment(
        self,
        source: Endpoint,
        target: Endpoint,
        *,
        sequence: int,
        acknowledged: int,
        flags: int,
        window: int,
    ) -> None:
        """Deliver an empty TCP segment.

        Args:
            source: The peer.
            target: The local end.
            sequence: Of the segment.
            acknowledged: Number of the byte that the peer expects next.
            flags: FIN, ACK.
            window: As it stands in the segment, not scaled.

        Raises:
            OSError: *target* is not an address of this namespace, for instance.
        """
        segment = struct.pack(
            ">HHIIBBHHH",
            source[1],
            target[1],
            sequence & 0xFFFFFFFF,
            acknowledged & 0xFFFFFFFF,
            5 << 4,
            flags,
            window,
            0,
            0,
        )
        found = checksum(_pseudo_header(source, target, 6, len(segment)) + segment)
        segment = segment[:16] + struct.pack(">H", found) + segment[18:]
        self._send(source, target, 6, segment)

    def send_datagram(self, source: Endpoint, target: Endpoint, data: bytes, protocol: int) -> None:
        """Deliver a datagram of UDP, or of UDP-Lite with its checksum over everything.

        Raises:
            OSError: As `send_segment`; EMSGSIZE when it is larger than loopback takes.
        """
        length = 8 + len(data)
        coverage = 0 if protocol == IPPROTO_UDPLITE else length
        head = struct.pack(">HHH", source[1], target[1], coverage)
        pseudo = _pseudo_header(source, target, protocol, length)
        found = checksum(pseudo + head + bytes(2) + data) or 0xFFFF
        self._send(source, target, protocol, head + struct.pack(">H", found) + data)

    def _send(self, source: Endpoint, target: Endpoint, protocol: int, payload: bytes) -> None:
        four = len(target[0]) == 4
        family = socket.AF_INET if four else socket.AF_INET6
        if family not in self._sockets:
            raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self._sockets[family] = raw
            raw.setsockopt(socket.SOL_SOCKET, _SO_MARK, DELIVERY_MARK)
            if not four:
                raw.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        if four:
            # The kernel fills length, identification and checksum in.
            head = struct.pack(
                ">BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, _TTL, protocol, 0, source[0], target[0]
            )
        else:
            head = struct.pack(
                ">IHBB16s16s", 6 << 28, len(payload), protocol, _TTL, source[0], target[0]
            )
        self._sockets[family].sendto(head + payload, (socket.inet_ntop(family, target[0]), 0))


def _pseudo_header(source: Endpoint, target: Endpoint, protocol: int, length: int) -> bytes:
    if len(target[0]) == 4:
        return source[0] + target[0] + struct.pack(">BBH", 0, protocol, length)
    return source[0] + target[0] + struct.pack(">IHBB", length, 0, 0, protocol)


def checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071."""
    data += bytes(len(data) % 2)
    # 65535 divides 2**16 - 1: the sum of words modulo that is the value of the whole number
    total = int.from_bytes(data, "big") % 0xFFFF
    return 0xFFFF - total if total or not any(data) else 0
