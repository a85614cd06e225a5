"""Packet sockets: interface and protocol, options, rings, memberships, fan-out groups.

What waits to be read is lost, as packets may be: the wire has moved on. A ring comes back empty.
"""

from __future__ import annotations

import os
import socket
import struct

from formats.records.network import PacketMembership, PacketSocket
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.socket_family import PACKET, protocol_name
from runtime.engine.files.socket_filters import read_filter, restore_filter
from runtime.engine.files.socket_options import read_options, set_options
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.kind import Scope
from runtime.engine.sandbox.network_errors import explained
from runtime.engine.sandbox.network_ids import namespace_path, scope_of_socket
from runtime.errors import RestoreError
from runtime.kernel import packet_sockets as pk
from runtime.kernel.packet_sockets import PacketInfo
from runtime.kernel.visit import visiting_path

SAVED = (
    (
        "packet sockets",
        "of all types, bound to an interface or not: protocol, options, filters, memberships, "
        "fan-out, rings (which come back empty)",
    ),
)
REFUSED = (
    ("socket-namespace", "a socket of a network namespace that is not the container's"),
    ("packet-fanout", "a packet socket whose fan-out group is steered by a program"),
)
_KINDS = (socket.SOCK_RAW, socket.SOCK_DGRAM, pk.SOCK_PACKET)
_RING_WORDS = 7
_MAX_COUNT = 1 << 16


class PacketSockets(Kind):
    """A packet socket."""

    name = "packet sockets"
    rank = 43
    record = PacketSocket

    def matches(self, table: FileTable, look: Look) -> bool:
        return protocol_name(look) == PACKET

    def dump(self, table: FileTable, look: Look, file_id: int) -> PacketSocket | None:
        with socket.socket(fileno=look.duplicate()) as sock:
            scope = scope_of_socket(table.context, sock.fileno())
            info = None if scope is None else _infos(table, scope).get(look.stat.st_ino)
            if scope is None or info is None:
                table.refuse(look, "socket-namespace", "belongs to a network namespace of others")
                return None
            fanout = pk.number(sock, pk.PACKET_FANOUT) or 0
            if fanout >> 16 & 0xFF in (pk.PACKET_FANOUT_CBPF, pk.PACKET_FANOUT_EBPF):
                table.refuse(look, "packet-fanout", "has a fan-out group with a program")
                return None
            found = read_filter(table, look, sock)
            if found is None:
                return None
            numbers = ((option, pk.number(sock, option)) for option in pk.NUMBERS)
            return PacketSocket(
                file_id=file_id,
                ns_id=scope.ns_id,
                kind=info.kind,
                flags=look.flags,
                protocol=info.protocol,
                index=info.index,
                numbers=tuple((option, value) for option, value in numbers if value),
                copy_threshold=info.copy_threshold,
                memberships=tuple(PacketMembership(*each) for each in info.memberships),
                rx_ring=info.rx_ring,
                tx_ring=info.tx_ring,
                fanout=fanout & ~(pk.PACKET_FANOUT_FLAG_UNIQUEID << 16),
                options=read_options(sock),
                filter=found[0],
                filter_locked=found[1],
                uid=look.stat.st_uid,
                gid=look.stat.st_gid,
                owner=table.owner(look),
            )

    def restore(self, files: RestoredFiles, record: PacketSocket) -> int:
        _check(record)
        with (
            explained(f"packet socket on interface {record.index}"),
            visiting_path(namespace_path(files, record.ns_id), "net"),
        ):
            early = socket.htons(record.protocol) if record.kind == pk.SOCK_PACKET else 0
            sock = socket.socket(socket.AF_PACKET, record.kind, early)
            try:
                _set_up(sock, record)
                return sock.detach()
            finally:
                sock.close()


def _check(record: PacketSocket) -> None:
    if (
        record.kind not in _KINDS
        or any(len(ring) not in (0, _RING_WORDS) for ring in (record.rx_ring, record.tx_ring))
        or not 0 <= record.protocol < 1 << 16
        or any(not 0 < each.count <= _MAX_COUNT for each in record.memberships)
    ):
        raise RestoreError("a malformed packet socket", reason="image-inconsistent")


def _set_up(sock: socket.socket, record: PacketSocket) -> None:
    numbers = dict(record.numbers)
    for option in pk.NUMBERS:
        if option in numbers:
            sock.setsockopt(pk.SOL_PACKET, option, numbers[option])
    if record.copy_threshold:
        sock.setsockopt(pk.SOL_PACKET, pk.PACKET_COPY_THRESH, record.copy_threshold)
    for option, ring in ((pk.PACKET_RX_RING, record.rx_ring), (pk.PACKET_TX_RING, record.tx_ring)):
        if ring:
            pk.set_ring(sock, option, ring, numbers.get(pk.PACKET_VERSION, 0))
    set_options(sock, record.options)
    restore_filter(sock, record.filter, locked=record.filter_locked)
    # One of type SOCK_PACKET receives its protocol from birth, and only names an interface.
    if record.index or (record.protocol and record.kind != pk.SOCK_PACKET):
        name = socket.if_indextoname(record.index) if record.index else ""
        pk.bind(sock, record.protocol, record.index, name)
    for each in record.memberships:
        for _ in range(each.count):
            pk.join(sock, each.index, each.kind, each.address)
    if record.fanout:
        sock.setsockopt(pk.SOL_PACKET, pk.PACKET_FANOUT, struct.pack("=I", record.fanout))
    os.fchown(sock.fileno(), record.uid, record.gid)


def _infos(table: FileTable, scope: Scope) -> dict[int, PacketInfo]:
    return table.once(("packet", scope.ns_id), lambda: pk.packet_sockets(scope.path))
