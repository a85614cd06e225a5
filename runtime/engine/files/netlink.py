"""Netlink sockets: their address, groups and options, in the network namespace they belong to."""

from __future__ import annotations

import os
import socket
from functools import partial

from formats.records.network import NetlinkSocket
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.socket_family import NETLINK, protocol_name
from runtime.engine.files.socket_filters import read_filter, restore_filter
from runtime.engine.files.socket_options import read_options, set_options
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.kind import Scope
from runtime.engine.sandbox.network_errors import explained
from runtime.engine.sandbox.network_ids import namespace_path, scope_of_socket
from runtime.errors import RestoreError
from runtime.kernel import netlink_sockets as nl
from runtime.kernel.netlink import SOL_NETLINK
from runtime.kernel.netlink_sockets import NetlinkInfo
from runtime.kernel.visit import visiting_path

SAVED = (("netlink sockets", "of all families: address, peer, groups, options, filters"),)
REFUSED = (
    (
        "netlink-queue",
        "a netlink socket with messages that are not yet read, or in the middle of a list; "
        "try again",
    ),
    ("socket-namespace", "a socket of a network namespace that is not the container's"),
)
_MAX_GROUP = 4096


class NetlinkSockets(Kind):
    """A netlink socket."""

    name = "netlink sockets"
    rank = 42
    record = NetlinkSocket

    def matches(self, table: FileTable, look: Look) -> bool:
        return protocol_name(look) == NETLINK

    def dump(self, table: FileTable, look: Look, file_id: int) -> NetlinkSocket | None:
        with socket.socket(fileno=look.duplicate()) as sock:
            scope = scope_of_socket(table.context, sock.fileno())
            if scope is None:
                table.refuse(look, "socket-namespace", "belongs to a network namespace of others")
                return None
            # One without an address is not listed, and cannot have been sent anything.
            info = _infos(table, scope).get(look.stat.st_ino)
            if info is not None and (info.received or info.dumping):
                table.refuse(look, "netlink-queue", "has messages that are not yet read; try again")
                return None
            found = read_filter(table, look, sock)
            if found is None:
                return None
            options = ((option, nl.switch(sock, option)) for option in nl.SWITCHES)
            return NetlinkSocket(
                file_id=file_id,
                ns_id=scope.ns_id,
                kind=int(sock.type),
                protocol=sock.proto,
                flags=look.flags,
                port=sock.getsockname()[0],
                groups=nl.memberships(sock),
                peer=sock.getpeername(),
                switches=tuple(option for option, is_on in options if is_on),
                options=read_options(sock),
                filter=found[0],
                filter_locked=found[1],
                uid=look.stat.st_uid,
                gid=look.stat.st_gid,
                owner=table.owner(look),
            )

    def restore(self, files: RestoredFiles, record: NetlinkSocket) -> int:
        if record.kind not in (socket.SOCK_RAW, socket.SOCK_DGRAM) or not all(
            0 < group <= _MAX_GROUP for group in record.groups
        ):
            raise RestoreError("a malformed netlink socket", reason="image-inconsistent")
        with explained(f"netlink socket of protocol {record.protocol}"):
            with visiting_path(namespace_path(files, record.ns_id), "net"):
                sock = socket.socket(socket.AF_NETLINK, record.kind, record.protocol)
            try:
                _set_up(sock, record)
                # It need not hear of what a restore has still to do.
                files.last_steps.append(partial(_join, files, record))
                return sock.detach()
            finally:
                sock.close()


def _set_up(sock: socket.socket, record: NetlinkSocket) -> None:
    for option in record.switches:
        if option in nl.SWITCHES:
            sock.setsockopt(SOL_NETLINK, option, 1)
    if record.port:
        sock.bind((record.port, 0))
    if any(record.peer):
        sock.connect(record.peer)
    set_options(sock, record.options)
    restore_filter(sock, record.filter, locked=record.filter_locked)
    os.fchown(sock.fileno(), record.uid, record.gid)


def _join(files: RestoredFiles, record: NetlinkSocket) -> None:
    with (
        explained(f"groups of a netlink socket of protocol {record.protocol}"),
        socket.socket(fileno=os.dup(files.fds[record.file_id])) as sock,
    ):
        for group in record.groups:
            sock.setsockopt(SOL_NETLINK, nl.NETLINK_ADD_MEMBERSHIP, group)


def _infos(table: FileTable, scope: Scope) -> dict[int, NetlinkInfo]:
    return table.once(("netlink", scope.ns_id), lambda: nl.netlink_sockets(scope.path))
