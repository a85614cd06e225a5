"""The interfaces of a running container that lead outside, and what they are connected with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from runtime.kernel import rtnetlink as rt
from runtime.kernel.netlink import NETLINK_ROUTE, Netlink


class Outlet(NamedTuple):
    """An interface that leads outside.

    Attributes:
        ifindex: In the container.
        kind: Such as ``veth`` and ``macvlan``; empty for hardware.
        name: In the container.
        connected: The bridge that the host's end of a veth is a port of, or the interface of the
            host that it is built on; empty if that cannot be told.
    """

    ifindex: int
    kind: str
    name: str
    connected: str


def outlets(pid: int) -> list[Outlet]:
    """The interfaces that lead out of the network namespace of a task.

    Raises:
        OSError: The task is gone.
    """
    with Netlink(NETLINK_ROUTE, f"/proc/{pid}/ns/net") as inside, Netlink(NETLINK_ROUTE) as here:
        outside = {link.index: link for link in rt.links(here)}
        return list(_leading_outside(rt.links(inside), outside))


def _leading_outside(
    inside: list[rt.LinkInfo], outside: dict[int, rt.LinkInfo]
) -> Iterator[Outlet]:
    for link in inside:
        hardware = not link.kind and not link.flags & rt.IFF_LOOPBACK
        if not hardware and link.number(rt.IFLA_LINK_NETNSID) is None:
            continue
        other = outside.get(link.number(rt.IFLA_LINK) or 0)
        if other is not None and link.kind == "veth":
            is_pair = other.kind == "veth" and other.number(rt.IFLA_LINK) == link.index
            other = outside.get(other.number(rt.IFLA_MASTER) or 0) if is_pair else None
        yield Outlet(link.index, link.kind, link.name, "" if other is None else other.name)
