"""Interfaces whose other end or lower interface is the host's: made if an option says so.

Nobody hears of them until the program goes on (`runtime.outside`): a frozen container must not
answer anybody, and its addresses may still be in use where it comes from.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from formats.records.network import Link
from runtime.engine.api import OutsideLink
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.sandbox.network_ids import place_of
from runtime.errors import RestoreError
from runtime.kernel import rtnetlink as rt
from runtime.kernel.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Attributes,
    Netlink,
    pack_attributes,
    text,
    u32,
)


class OutsideLinks:
    """Makes what the options of a restore name."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, str]] = []

    @staticmethod
    def note(files: RestoredFiles, record: Link, host: str = "", bridge: str = "") -> bool:
        """There is an interface that leads outside; whether it is one of the sandbox's own."""
        own = record.external and place_of(files, record.ns_id).own
        if own:
            files.outside.append(OutsideLink(record.index, host, bridge))
        return own

    def make(self, files: RestoredFiles, record: Link, given: Attributes, data: Attributes) -> None:
        """Make an interface of the container on, or together with, one of the host's.

        Raises:
            RestoreError: No option names one.
            OSError: The kernel refused.
        """
        name = files.options.external.get(f"{record.kind}[{record.name}]")
        if name is None:
            raise RestoreError(
                f"network interface {record.name} leads outside of the container; let a hook bring "
                f"it into the new one, or name the host's with --external "
                f"{record.kind or 'veth'}[{record.name}]:NAME",
                reason="net-link-missing",
            )
        with ExitStack() as opened:
            theirs = os.open(place_of(files, record.ns_id).path, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, theirs)
            ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, ours)
            if record.kind == "veth":
                inside = opened.enter_context(
                    Netlink(NETLINK_ROUTE, place_of(files, record.ns_id).path)
                )
                name, _, bridge = name.partition("@")
                host = self._make_pair(inside, record, given, name, ours)
                if not self.note(files, record, host, bridge):
                    self._waiting.append((host, bridge))
                elif bridge:
                    # Then there is no wait for a carrier when it becomes a port.
                    with Netlink(NETLINK_ROUTE) as here:
                        connect(here, host)
            else:
                outside = opened.enter_context(Netlink(NETLINK_ROUTE))
                attached = (
                    *given,
                    (rt.IFLA_LINK, u32(_index(outside, name))),
                    (rt.IFLA_NET_NS_FD, u32(theirs)),
                )
                _add(outside, record.index, record.kind, attached, data)
                self.note(files, record)

    @staticmethod
    def _make_pair(inside: Netlink, record: Link, given: Attributes, wanted: str, ours: int) -> str:
        peer = ((rt.IFLA_IFNAME, text(wanted)), (rt.IFLA_NET_NS_FD, u32(ours)))
        head = rt.IFINFOMSG.pack(0, 0, 0, 0, 0)
        data = ((rt.VETH_INFO_PEER, head + pack_attributes(peer)),)
        _add(inside, record.index, record.kind, given, data)
        with Netlink(NETLINK_ROUTE) as outside:
            return _other_end(inside, record.index, outside) if "%" in wanted else wanted

    def bring_up(self) -> None:
        """Let the host talk to namespaces that programs have made."""
        with Netlink(NETLINK_ROUTE) as outside:
            for name, bridge in self._waiting:
                connect(outside, name, bridge)
        self._waiting = []


def of(files: RestoredFiles) -> OutsideLinks:
    """The one of a restore."""
    return files.once("links outside", OutsideLinks)


def connect(here: Netlink, name: str, bridge: str = "") -> None:
    """Set an interface of this host up, and make it a port of a bridge.

    Raises:
        RestoreError: There is none of that name.
        OSError: The kernel refused.
    """
    given = ((rt.IFLA_MASTER, u32(_index(here, bridge))),) if bridge else ()
    rt.set_link(here, _index(here, name), given, flags=rt.IFF_UP, change=rt.IFF_UP)


def _index(outside: Netlink, name: str) -> int:
    link = next((link for link in rt.links(outside) if link.name == name), None)
    if link is None:
        raise RestoreError(f"this host has no network interface {name}", reason="net-link-missing")
    return link.index


def _other_end(inside: Netlink, index: int, outside: Netlink) -> str:
    """The name that the kernel has chosen for the host's end of a pair."""
    link = next(link for link in rt.links(inside) if link.index == index)
    other = link.number(rt.IFLA_LINK)
    return next(link.name for link in rt.links(outside) if link.index == other)


def _add(netlink: Netlink, index: int, kind: str, given: Attributes, data: Attributes) -> None:
    info: Attributes = ((rt.IFLA_INFO_KIND, text(kind)),)
    if data:
        info = (*info, (rt.IFLA_INFO_DATA, pack_attributes(data)))
    body = rt.IFINFOMSG.pack(0, 0, index, 0, 0)
    body += pack_attributes((*given, (rt.IFLA_LINKINFO, pack_attributes(info))))
    netlink.ask(rt.RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)
