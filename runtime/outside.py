"""A restored container and the networks outside: it joins them in the moment in which it goes on.

Until then the host's ends of its interfaces are down: a frozen container must not answer anybody,
and its addresses may still be in use where it comes from. Then whoever has seen these elsewhere is
told where they are now. Whatever of that fails keeps no program from going on.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator, Sequence

from runtime.kernel import rtnetlink as rt
from runtime.kernel.frames import announcements, send_frames
from runtime.kernel.netlink import NETLINK_ROUTE, Netlink, attributes

log = logging.getLogger(__name__)

_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_IFA_ADDRESS, _IFA_LOCAL = 1, 2  # include/uapi/linux/if_addr.h
_ETHERNET = 6  # bytes of an address


def join(pid: int, links: Sequence[tuple[int, str]]) -> None:
    """Connect the interfaces of a container with the host, and announce its addresses.

    Args:
        pid: A task of the container.
        links: The index of each in the container, and the name of the host's end; an empty one
            where somebody else has connected it.
    """
    with Netlink(NETLINK_ROUTE) as here:
        names = {link.name: link.index for link in rt.links(here)}
        for _, name in links:
            if name in names:
                rt.set_link(here, names[name], flags=rt.IFF_UP, change=rt.IFF_UP)
            elif name:
                log.warning("the network interface %s of this host is gone", name)
    path = f"/proc/{pid}/ns/net"
    with Netlink(NETLINK_ROUTE, path) as inside:
        found = {link.index: link for link in rt.links(inside)}
        addresses = list(_addresses(inside))
    for index, _ in links:
        link = found.get(index)
        mac = b"" if link is None else link.values.get(rt.IFLA_ADDRESS, b"")
        own = [address for where, address in addresses if where == index]
        if link is None or len(mac) != _ETHERNET or not link.flags & rt.IFF_UP:
            continue
        try:
            send_frames(path, index, announcements(mac, own))
        except OSError as exc:
            log.warning("the addresses of %s could not be announced: %s", link.name, exc)


def _addresses(netlink: Netlink) -> Iterator[tuple[int, bytes]]:
    """Every address of a namespace, with the index of its interface."""
    for message in netlink.dump(rt.RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0)):
        family, _, _, _, index = _IFADDRMSG.unpack_from(message.body)
        values = dict(attributes(message.body[_IFADDRMSG.size :]))
        address = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        if address and family in (socket.AF_INET, socket.AF_INET6):
            yield index, address
