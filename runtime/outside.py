"""A restored container and the networks outside: it joins them in the moment in which it goes on.

Until then nobody hears of it: a frozen container must not answer anybody,
and its addresses may still be in use where it comes from. Then whoever has seen these elsewhere is
told where they are now. Whatever of that fails keeps no program from going on.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from collections.abc import Iterator, Sequence

from runtime.engine.api import OutsideLink
from runtime.engine.sandbox.network_outside import connect
from runtime.errors import RestoreError
from runtime.kernel import rtnetlink as rt
from runtime.kernel.frames import Frame, announcements, send_frames
from runtime.kernel.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    Netlink,
    attributes,
    pack_attributes,
)

log = logging.getLogger(__name__)

_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_IFA_ADDRESS, _IFA_LOCAL = 1, 2  # include/uapi/linux/if_addr.h
_NDMSG = struct.Struct("=BxxxiHBB")  # family, interface, state, flags, type
_NDA_DST, _NTF_USE = 1, 1  # include/uapi/linux/neighbour.h
_NUD_UNKNOWN = 0x01 | 0x20  # INCOMPLETE, FAILED
_ETHERNET = 6  # bytes of an address


def join(pid: int, links: Sequence[tuple[int, str, str]]) -> None:
    """Connect the interfaces of a container with the host, and announce its addresses.

    Args:
        pid: A task of the container.
        links: Its interfaces, as `OutsideLink`.
    """
    with Netlink(NETLINK_ROUTE) as here:
        for each in map(OutsideLink._make, links):
            try:
                if each.host:
                    connect(here, each.host, each.bridge)
            except (RestoreError, OSError) as exc:
                log.warning("%s could not be connected: %s", each.host, exc)
    path = f"/proc/{pid}/ns/net"
    with Netlink(NETLINK_ROUTE, path) as inside:
        _ask_again(inside, {link[0] for link in links})
        found = {link.index: link for link in rt.links(inside)}
        addresses = list(_addresses(inside))
    for each in map(OutsideLink._make, links):
        link = found.get(each.ifindex)
        mac = b"" if link is None else link.values.get(rt.IFLA_ADDRESS, b"")
        own = [address for where, address in addresses if where == each.ifindex]
        if link is None or len(mac) != _ETHERNET or not link.flags & rt.IFF_UP:
            continue
        try:
            send_frames(path, each.ifindex, announcements(mac, own))
        except OSError as exc:
            log.warning("the addresses of %s could not be announced: %s", link.name, exc)


def _ask_again(netlink: Netlink, indices: set[int]) -> None:
    """Look for neighbours that could not answer before: the kernel would wait a second.

    Its connections may have asked for them as soon as they stood.
    """
    for message in netlink.dump(rt.RTM_GETNEIGH, _NDMSG.pack(0, 0, 0, 0, 0)):
        family, index, state, _, _ = _NDMSG.unpack_from(message.body)
        address = dict(attributes(message.body[_NDMSG.size :])).get(_NDA_DST)
        if index in indices and state & _NUD_UNKNOWN and address:
            wanted = pack_attributes(((_NDA_DST, address),))
            with contextlib.suppress(OSError):  # it has been found, or forgotten, meanwhile
                netlink.ask(rt.RTM_DELNEIGH, _NDMSG.pack(family, index, 0, 0, 0) + wanted)
                used = _NDMSG.pack(family, index, 0, _NTF_USE, 0) + wanted
                netlink.ask(rt.RTM_NEWNEIGH, used, NLM_F_CREATE)


def _addresses(netlink: Netlink) -> Iterator[tuple[int, bytes]]:
    """Every address of a namespace, with the index of its interface."""
    for message in netlink.dump(rt.RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0)):
        family, _, _, _, index = _IFADDRMSG.unpack_from(message.body)
        values = dict(attributes(message.body[_IFADDRMSG.size :]))
        address = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        if address and family in (socket.AF_INET, socket.AF_INET6):
            yield index, address


def deliver(links: Sequence[tuple[int, str, str]], frames: Sequence[tuple[int, Frame]]) -> None:
    """Hand a container frames that came for it elsewhere.

    Args:
        links: Its interfaces, as `OutsideLink`.
        frames: Each with the number of the interface in the container.
    """
    hosts = {each.ifindex: each.host for each in map(OutsideLink._make, links) if each.host}
    with Netlink(NETLINK_ROUTE) as here:
        names = {link.name: link.index for link in rt.links(here)}
    for index in {index for index, _ in frames} & hosts.keys():
        if hosts[index] in names:
            own = [frame for where, frame in frames if where == index]
            try:
                send_frames("/proc/thread-self/ns/net", names[hosts[index]], own)
            except OSError as exc:
                log.warning("%s: frames that came meanwhile are lost: %s", hosts[index], exc)
