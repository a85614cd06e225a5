"""What a network namespace may hold and cannot be saved: looked for, and refused by name."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from formats.records.codec import Record
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.kernel import nfnetlink as nf
from runtime.kernel import rtnetlink as rt
from runtime.kernel.netlink import NETLINK_ROUTE, NETLINK_XFRM, Netlink
from runtime.kernel.visit import visiting_path

REFUSED = (
    ("net-ipset", "sets of ipset"),
    ("net-ipvs", "virtual servers of IPVS"),
    ("net-arptables", "rules of arptables in their older form"),
    ("net-xfrm", "IPsec states and policies"),
    ("net-mroute", "multicast routes"),
    ("net-tc-filter", "filters of traffic control"),
)

IPSET_CMD_LIST = 7  # include/uapi/linux/netfilter/ipset/ip_set.h
IPSET_ATTR_PROTOCOL, IPSET_PROTOCOL = 1, bytes([7])
XFRM_MSG_GETSA, XFRM_MSG_GETPOLICY = 0x12, 0x15  # include/uapi/linux/xfrm.h
_TCMSG = struct.Struct("=BxxxiIII")
# include/uapi/linux/pkt_sched.h: a root queue's, an ingress queue's, a clsact queue's two blocks
_FILTER_PARENTS = (0, 0xFFFF0000, 0xFFFFFFF2, 0xFFFFFFF3)


class NetworkUnsaved(SandboxKind):
    """Nothing that is kept."""

    name = "the rest of a network namespace"
    namespace = "net"
    records = ()
    rank = 90

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[Record]:
        for reason, subject in _found(scope.path):
            context.refuse(reason, subject, "cannot be saved")
        return ()

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[Any]) -> None:
        raise NotImplementedError  # it has no records


def _found(path: str) -> Iterator[tuple[str, str]]:
    if _lists(path, "ip_vs", header_lines=3):
        yield "net-ipvs", "IPVS"
    if _lists(path, "arp_tables_names"):
        yield "net-arptables", "arptables"
    for name in ("ip_mr_cache", "ip6_mr_cache"):
        if _lists(path, name, header_lines=1):
            yield "net-mroute", f"/proc/net/{name}"
    given = ((IPSET_ATTR_PROTOCOL, IPSET_PROTOCOL),)
    if nf.Netfilter(path, nf.NFNL_SUBSYS_IPSET).list(IPSET_CMD_LIST, given=given):
        yield "net-ipset", "ipset"
    if _has_ipsec(path):
        yield "net-xfrm", "IPsec"
    yield from _tc_filters(path)


def _lists(path: str, name: str, *, header_lines: int = 0) -> bool:
    """Whether a file of /proc/net has more lines than its header."""
    with visiting_path(path, "net"):
        try:
            with open(f"/proc/thread-self/net/{name}") as file:
                return len(file.readlines()) > header_lines
        except FileNotFoundError:  # a kernel without it
            return False


def _has_ipsec(path: str) -> bool:
    try:
        with Netlink(NETLINK_XFRM, path) as netlink:
            return bool(netlink.dump(XFRM_MSG_GETSA, b"") or netlink.dump(XFRM_MSG_GETPOLICY, b""))
    except OSError:  # a kernel without it
        return False


def _tc_filters(path: str) -> Iterator[tuple[str, str]]:
    with Netlink(NETLINK_ROUTE, path) as netlink:
        queues = netlink.dump(rt.RTM_GETQDISC, bytes(_TCMSG.size))
        handles = {_TCMSG.unpack_from(queue.body)[1:3] for queue in queues}
        for link in rt.links(netlink):
            for parent in _parents(handles, link.index):
                request = _TCMSG.pack(0, link.index, 0, parent, 0)
                if netlink.dump(rt.RTM_GETTFILTER, request):
                    yield "net-tc-filter", f"network interface {link.name}"
                    break


def _parents(handles: set[tuple[int, int]], index: int) -> Iterator[int]:
    own = {handle for number, handle in handles if number == index and handle}
    if own:
        yield from (*own, *_FILTER_PARENTS)
