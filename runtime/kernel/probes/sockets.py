"""Probes of what wherry asks and sets about sockets."""

from __future__ import annotations

import socket
import struct

from runtime.kernel.features import Need, UnavailableError, probe

_GROUP = "sockets"

# <linux/netlink.h>
NETLINK_SOCK_DIAG = 4
NLM_F_REQUEST = 0x1
NLM_F_DUMP = 0x300
NLMSG_ERROR = 0x2
# <linux/sock_diag.h>
SOCK_DIAG_BY_FAMILY = 20
# <linux/tcp.h>
TCP_REPAIR = 19
TCP_REPAIR_ON = 1
TCP_REPAIR_OFF_NO_WP = -1


def _dump_family(family: int, request: bytes) -> str:
    """Ask sock_diag for a dump of one family and look at the first answer only."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as diag:
        diag.settimeout(2)
        length = 16 + len(request)
        flags = NLM_F_REQUEST | NLM_F_DUMP
        diag.send(struct.pack("=IHHII", length, SOCK_DIAG_BY_FAMILY, flags, 1, 0) + request)
        answer = diag.recv(65536)
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind == NLMSG_ERROR:
        error = -struct.unpack_from("=i", answer, 16)[0]
        if error:
            raise UnavailableError(f"sock_diag has no module for family {family} (error {error})")
    return ""


@probe(
    "sock-diag-unix",
    group=_GROUP,
    used_for="finding the peer and the queue of a UNIX socket",
    without_it="a checkpoint refuses UNIX sockets",
)
def _sock_diag_unix() -> str:
    # struct unix_diag_req: family, protocol, pad, states, ino, show, cookie[2]
    return _dump_family(
        socket.AF_UNIX, struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0, 0, 0, 0, 0)
    )


@probe(
    "sock-diag-inet",
    group=_GROUP,
    used_for="finding connections not yet accepted, and the other ends of TCP connections",
    without_it="a checkpoint refuses TCP connections",
)
def _sock_diag_inet() -> str:
    # struct inet_diag_req_v2: family, protocol, ext, pad, states, then a 48-byte socket id
    head = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0)
    return _dump_family(socket.AF_INET, head + bytes(48))


@probe(
    "sock-diag-netlink",
    group=_GROUP,
    need=Need.UNUSED,
    used_for="describing netlink sockets",
    without_it="they are named by their descriptors only",
)
def _sock_diag_netlink() -> str:
    # struct netlink_diag_req: family, protocol, pad, ino, show, cookie[2]
    request = struct.pack("=BBHIIII", socket.AF_NETLINK, 255, 0, 0, 0, 0, 0)
    return _dump_family(socket.AF_NETLINK, request)


@probe(
    "tcp-repair",
    group=_GROUP,
    used_for="taking and setting the state of TCP connections",
    without_it="a checkpoint refuses TCP connections",
)
def _tcp_repair() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe_socket:
        probe_socket.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)
        probe_socket.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)
    return ""
