"""Network interfaces: made under their old numbers and names, across namespaces, but not yet up.

All namespaces' links are made at once, each after those it is built on. What a new namespace brings
along (the loopback, and the fall-back tunnels of some kernels), or what a hook has moved in, is
taken as it is and set to what was saved.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

from formats.records.network import Link
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox import network_outside, network_tun
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.engine.sandbox.network_errors import explained
from runtime.engine.sandbox.network_ids import known_namespaces, place_of
from runtime.errors import RestoreError
from runtime.kernel import rtnetlink as rt
from runtime.kernel.namespaces import fresh_network_namespace
from runtime.kernel.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Attributes,
    Netlink,
    attributes,
    pack_attributes,
    text,
    u32,
)

SAVED = (
    (
        "network links",
        "loopback, bridges with their ports, veth pairs inside the container and across its "
        "namespaces, VLANs, macvlan and ipvlan, tunnels, TUN and TAP: number, names, addresses, "
        "MTU, queue length, group, alias, flags",
    ),
)
REFUSED = (
    ("net-link-kind", "a network interface of a kind that cannot be made again"),
    ("net-bridge-vlan", "a bridge that filters by VLAN"),
    ("net-xdp", "an XDP program on a network interface"),
)

# Kinds whose data the kernel takes back as it lists it
_PAIRS = ("veth", "vxcan")
_KINDS = frozenset(
    {
        *_PAIRS,
        *("dummy", "ifb", "nlmon", "vcan", "bridge", "bond", "vrf", "vlan", "macvlan", "macvtap"),
        *("ipvlan", "ipvtap", "vxlan", "geneve", "gre", "gretap", "erspan", "ip6gre", "ip6gretap"),
        *("ip6erspan", "ipip", "sit", "ip6tnl", "vti", "vti6", "tun"),
    }
)
_SETTINGS = (
    rt.IFLA_MTU,
    rt.IFLA_TXQLEN,
    rt.IFLA_ADDRESS,
    rt.IFLA_BROADCAST,
    rt.IFLA_LINKMODE,
    rt.IFLA_IFALIAS,
    rt.IFLA_GROUP,
    rt.IFLA_PROTO_DOWN,
    rt.IFLA_GSO_MAX_SEGS,
    rt.IFLA_GSO_MAX_SIZE,
    rt.IFLA_GRO_MAX_SIZE,
    rt.IFLA_GSO_IPV4_MAX_SIZE,
    rt.IFLA_GRO_IPV4_MAX_SIZE,
)
# IFLA_BRPORT_* that are settings and not the state of the spanning tree
_BRIDGE_PORT = frozenset({*range(2, 13), 25, *range(27, 35), 37, 39, 40, *range(42, 45)})
# IFLA_BR_*, the same
_BRIDGE = frozenset({*range(1, 10), 20, *range(22, 40), *range(41, 47), 49})
_BR_VLAN_FILTERING, _BR_MULTI_BOOLOPT = 7, 46
_BOND_MODE = 1
# IFLA_BOND_*: all but the mode, the active port, and what partners have agreed on
_BOND = frozenset({*range(3, 23), *range(24, 33)})
_MASTERS = {"bridge": _BRIDGE, "bond": _BOND}
_VXLAN_TTL_INHERIT = 28  # IFLA_VXLAN_*; listed as a number, taken as a flag
# Those that are on when they are there, with whatever value: REMCSUM_TX and _RX too
_VXLAN_SWITCHES = (21, 22, _VXLAN_TTL_INHERIT)
_MACVLAN_MACADDR_MODE, _MACVLAN_MACADDR_DATA = 3, 5  # IFLA_MACVLAN_*
_MACVLAN_STATE = (6, 8)  # MACADDR_COUNT, BC_QUEUE_LEN_USED
_MACVLAN_MACADDR_SET = 3
_ETH_ALEN = 6  # include/uapi/linux/if_ether.h
_MAX_QUEUES = 4096  # net/core/rtnetlink.c


class NetworkLinks(SandboxKind):
    """The interfaces of a network namespace."""

    name = "network links"
    namespace = "net"
    records = (Link,)
    rank = 30

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[Link]:
        known = known_namespaces(context, scope)
        with Netlink(NETLINK_ROUTE, scope.path) as netlink:
            for link in rt.links(netlink):
                if _refused(context, link):
                    continue
                record = _dump_link(scope, link, known)
                if record.external:
                    context.warnings.append(
                        f"network interface {link.name} leads outside of the container; a hook or "
                        "--external must bring it into a new one"
                    )
                yield record

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[Link]) -> None:
        files.once("network links", lambda: _make_all(files))

    def finish(self, files: RestoredFiles, place: Place, records: Sequence[Link]) -> None:
        files.once("network links up", network_outside.of(files).bring_up)


def _refused(context: DumpContext, link: rt.LinkInfo) -> bool:
    subject = f"network interface {link.name}"
    if link.kind and link.kind not in _KINDS:
        context.refuse("net-link-kind", subject, f"is of kind {link.kind}")
    elif link.kind == "bridge" and any(_data(link).get(_BR_VLAN_FILTERING, b"")):
        context.refuse("net-bridge-vlan", subject, "filters by VLAN, whose tables are not saved")
    elif link.has_program:
        context.refuse("net-xdp", subject, "has an XDP program")
    else:
        return False
    return True


def _data(link: rt.LinkInfo) -> dict[int, bytes]:
    return dict(attributes(link.info.get(rt.IFLA_INFO_DATA, b"")))


def _dump_link(scope: Scope, link: rt.LinkInfo, known: dict[int, Scope]) -> Link:
    namespace_number = link.number(rt.IFLA_LINK_NETNSID)
    other = known.get(namespace_number) if namespace_number is not None else None
    hardware = not link.kind and not link.flags & rt.IFF_LOOPBACK
    return Link(
        ns_id=scope.ns_id,
        index=link.index,
        name=link.name,
        kind=link.kind,
        flags=link.flags & (rt.IFF_SETTABLE | rt.IFF_UP | rt.IFF_LOOPBACK),
        settings=tuple((kind, link.values[kind]) for kind in _SETTINGS if kind in link.values),
        data=link.info.get(rt.IFLA_INFO_DATA, b""),
        lower=max(link.number(rt.IFLA_LINK) or 0, 0),
        lower_ns_id=other.ns_id if other else 0,
        external=hardware or (namespace_number is not None and other is None),
        master=max(link.number(rt.IFLA_MASTER) or 0, 0),
        port_kind=link.master_kind,
        port_data=link.info.get(rt.IFLA_INFO_SLAVE_DATA, b""),
        names=link.alternative_names,
        tx_queues=link.number(rt.IFLA_NUM_TX_QUEUES) or 1,
        rx_queues=link.number(rt.IFLA_NUM_RX_QUEUES) or 1,
    )


# Restore: all links of all namespaces


def _make_all(files: RestoredFiles) -> None:
    with explained("network interfaces"), ExitStack() as opened:
        _Maker(files, opened).make_all()


class _Maker:
    """Makes links in their order, with one netlink socket per namespace."""

    def __init__(self, files: RestoredFiles, opened: ExitStack) -> None:
        self.files = files
        self.opened = opened
        self.records = files.all_of(Link)
        self.sockets: dict[int, Netlink] = {}
        self.made: dict[tuple[int, int], Link] = {}  # by namespace and index
        self.outside = network_outside.of(files)

    def netlink(self, ns_id: int) -> Netlink:
        """Our socket in a namespace of the image."""
        if ns_id not in self.sockets:
            path = place_of(self.files, ns_id).path
            self.sockets[ns_id] = self.opened.enter_context(Netlink(NETLINK_ROUTE, path))
        return self.sockets[ns_id]

    def make_all(self) -> None:
        """Make, set and join every link."""
        waiting = [record for record in self.records if not self._is_there(record)]
        while waiting:
            ready = [record for record in waiting if self._can_make(record, waiting)]
            if not ready:
                raise RestoreError(
                    f"network interface {waiting[0].name} is built on one that the image lacks",
                    reason="image-inconsistent",
                )
            for record in ready:
                if (record.ns_id, record.index) not in self.made:  # or with its other end
                    self._make(record)
            waiting = [r for r in waiting if (r.ns_id, r.index) not in self.made]
        # A bridge takes the address of its ports unless it is given its own, hence the order.
        masters = {(record.ns_id, record.master) for record in self.records}
        for record in self.records:
            if (record.ns_id, record.index) not in masters:
                self._set(record)
            if record.kind in _MASTERS:
                self._set_data(record)
        for record in self.records:
            if record.master:
                self._join(record)
        for record in self.records:
            if (record.ns_id, record.index) in masters:
                self._set(record)

    def _is_there(self, record: Link) -> bool:
        """Whether a fresh namespace, or a hook, has brought the link, or an option has now."""
        present = {link.name: link for link in rt.links(self.netlink(record.ns_id))}
        link = present.get(record.name)
        with explained(f"network interface {record.name}"):
            if link is None:
                if not record.external and record.kind:
                    return False
                self.outside.make(self.files, record, _creation(record), _data_of(record))
            else:
                if link.index != record.index:
                    self._renumber(record, link)
                self.outside.note(self.files, record)
        self.made[record.ns_id, record.index] = record
        return True

    def _renumber(self, record: Link, link: rt.LinkInfo) -> None:
        """Give a link that a hook has brought its old number: by way of another namespace."""
        with fresh_network_namespace() as elsewhere:
            rt.set_link(
                self.netlink(record.ns_id), link.index, ((rt.IFLA_NET_NS_FD, u32(elsewhere)),)
            )
            with ExitStack() as opened:
                there = opened.enter_context(Netlink(NETLINK_ROUTE, f"/proc/self/fd/{elsewhere}"))
                back = os.open(place_of(self.files, record.ns_id).path, os.O_RDONLY | os.O_CLOEXEC)
                opened.callback(os.close, back)
                moved = next(each for each in rt.links(there) if each.name == record.name)
                given = (
                    (rt.IFLA_NET_NS_FD, u32(back)),
                    (rt.IFLA_NEW_IFINDEX, u32(record.index)),
                )
                rt.set_link(there, moved.index, given)

    def _can_make(self, record: Link, waiting: list[Link]) -> bool:
        lower = (record.lower_ns_id or record.ns_id, record.lower)
        if record.kind in _PAIRS:
            return any((other.ns_id, other.index) == lower for other in waiting)
        return not record.lower or lower in self.made

    def _make(self, record: Link) -> None:
        if record.kind not in _KINDS:
            raise RestoreError(
                f"the image has a network interface of kind {record.kind!r}",
                reason="image-inconsistent",
            )
        self.made[record.ns_id, record.index] = record
        with explained(f"network interface {record.name} ({record.kind})"):
            if record.kind == "tun":
                network_tun.make(self.files, record)
            elif record.kind in _PAIRS:
                self._make_pair(record)
            else:
                self._add(record, _data_of(record))

    def _make_pair(self, record: Link) -> None:
        namespace = record.lower_ns_id or record.ns_id
        peers = (r for r in self.records if (r.ns_id, r.index) == (namespace, record.lower))
        peer = next(peers)  # `_can_make` has seen it
        self.made[peer.ns_id, peer.index] = peer
        fd = os.open(place_of(self.files, namespace).path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            given = (*_creation(peer), (rt.IFLA_NET_NS_FD, u32(fd)))
            head = rt.IFINFOMSG.pack(0, 0, peer.index, 0, 0)
            self._add(record, [(rt.VETH_INFO_PEER, head + pack_attributes(given))])
        finally:
            os.close(fd)

    def _add(self, record: Link, data: Iterable[tuple[int, bytes]]) -> None:
        info = [(rt.IFLA_INFO_KIND, text(record.kind))]
        packed = pack_attributes(data)
        if packed:
            info.append((rt.IFLA_INFO_DATA, packed))
        given = [*_creation(record), (rt.IFLA_LINKINFO, pack_attributes(info))]
        if record.lower and record.kind not in _PAIRS:
            given += self._lower(record)
        body = rt.IFINFOMSG.pack(0, 0, record.index, 0, 0) + pack_attributes(given)
        self.netlink(record.ns_id).ask(rt.RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)

    def _lower(self, record: Link) -> Iterator[tuple[int, bytes]]:
        yield rt.IFLA_LINK, u32(record.lower)
        if record.lower_ns_id:
            fd = os.open(place_of(self.files, record.lower_ns_id).path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                number = rt.namespace_id(self.netlink(record.ns_id), fd)
            finally:
                os.close(fd)
            yield rt.IFLA_LINK_NETNSID, struct.pack("=i", number)

    # What can be changed later

    def _now(self, record: Link) -> rt.LinkInfo:
        present = rt.links(self.netlink(record.ns_id))
        now = next((link for link in present if link.index == record.index), None)
        if now is None:
            raise RestoreError(f"network interface {record.name} did not appear")
        return now

    def _set(self, record: Link) -> None:
        now = self._now(record)
        for kind, value in record.settings:
            if kind in _SETTINGS and now.values.get(kind) != value:
                self._change(record, ((kind, value),), f"attribute {kind}")
        missing = tuple(name for name in record.names if name not in now.alternative_names)
        if missing:
            with explained(f"network interface {record.name}: names"):
                rt.add_names(self.netlink(record.ns_id), record.index, missing)

    def _set_data(self, record: Link) -> None:
        """Set one by one what differs: a kernel lists settings too that it refuses to take."""
        there = _data(self._now(record))
        for kind, value in attributes(record.data):
            if kind not in _MASTERS[record.kind] or there.get(kind) == value:
                continue
            if (record.kind, kind) == ("bridge", _BR_MULTI_BOOLOPT):
                wanted = _differing_bits(value, there.get(kind, b""))
            else:
                wanted = value
            info = (
                (rt.IFLA_INFO_KIND, text(record.kind)),
                (rt.IFLA_INFO_DATA, pack_attributes([(kind, wanted)])),
            )
            self._change(record, ((rt.IFLA_LINKINFO, pack_attributes(info)),), f"setting {kind}")

    def _join(self, record: Link) -> None:
        """Make the link a port of its bridge or the like."""
        self._change(record, ((rt.IFLA_MASTER, u32(record.master)),), "its master")
        if record.port_kind != "bridge":
            return  # of other masters it is state, and no settings
        there = dict(attributes(self._now(record).info.get(rt.IFLA_INFO_SLAVE_DATA, b"")))
        for kind, value in attributes(record.port_data):
            if kind in _BRIDGE_PORT and there.get(kind) != value:
                info = (
                    (rt.IFLA_INFO_SLAVE_KIND, text(record.port_kind)),
                    (rt.IFLA_INFO_SLAVE_DATA, pack_attributes([(kind, value)])),
                )
                given = ((rt.IFLA_LINKINFO, pack_attributes(info)),)
                self._change(record, given, f"setting {kind} as a port")

    def _change(self, record: Link, given: Attributes, what: str) -> None:
        with explained(f"network interface {record.name}: {what}"):
            rt.set_link(self.netlink(record.ns_id), record.index, given)


def _creation(record: Link) -> Attributes:
    for queues in (record.tx_queues, record.rx_queues):
        if not 1 <= queues <= _MAX_QUEUES:
            raise RestoreError(
                f"network interface {record.name} has {queues} queues", reason="image-inconsistent"
            )
    # Some kinds take an Ethernet address at creation only; a bridge that is given one keeps it.
    address = dict(record.settings).get(rt.IFLA_ADDRESS, b"")
    given = len(address) == _ETH_ALEN and record.kind not in _MASTERS
    return (
        *(((rt.IFLA_ADDRESS, address),) if given else ()),
        (rt.IFLA_IFNAME, text(record.name)),
        (rt.IFLA_NUM_TX_QUEUES, u32(record.tx_queues)),
        (rt.IFLA_NUM_RX_QUEUES, u32(record.rx_queues)),
    )


def _differing_bits(wanted: bytes, now: bytes) -> bytes:
    """A struct br_boolopt_multi for those options alone that are not as wanted."""
    try:
        (values, mask), (others, _) = (struct.unpack("=II", value) for value in (wanted, now))
    except struct.error as exc:
        raise RestoreError(f"a bridge's options: {exc}", reason="image-inconsistent") from exc
    return struct.pack("=II", values, mask & (values ^ others))


def _data_of(record: Link) -> Attributes:
    data = attributes(record.data)
    if record.kind in _MASTERS:
        return tuple(pair for pair in data if (record.kind, pair[0]) == ("bond", _BOND_MODE))
    if record.kind == "vxlan":
        found = [pair for pair in data if any(pair[1]) or pair[0] not in _VXLAN_SWITCHES]
        return tuple((k, b"" if k == _VXLAN_TTL_INHERIT else value) for k, value in found)
    if record.kind.startswith("macv"):
        data = tuple(pair for pair in data if pair[0] not in _MACVLAN_STATE)
        if dict(data).get(_MACVLAN_MACADDR_DATA):
            return (*data, (_MACVLAN_MACADDR_MODE, u32(_MACVLAN_MACADDR_SET)))
    return data
