"""The networks of a container that moves: what its interfaces are connected with over there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from migrate.errors import MigrateError, ProtocolError
from migrate.messages import HeldFrame, Outlet
from runtime.engine.network_hold import owns_network
from runtime.kernel.frames import FrameTap
from runtime.outlets import outlets

_KEY = re.compile(r"(veth|macvlan|ipvlan)\[[^]\x00]{1,15}\]")
_NAME = re.compile(r"[^@%/:\s\x00]{1,15}")
_FRAMES_LIMIT = 1 << 20


def planned(pid: int, spec: Mapping[str, object], wanted: Mapping[str, str]) -> list[Outlet]:
    """What the interfaces of a container are to be connected with at the destination.

    Args:
        pid: A task of the container.
        spec: Its configuration.
        wanted: By the name of an interface: a bridge for a veth, an interface for a macvlan or an
            ipvlan. What is not named is connected as it is here.

    Raises:
        MigrateError: *wanted* names an interface that does not lead outside.
    """
    found = outlets(pid) if owns_network(spec) else []
    strangers = wanted.keys() - {each.name for each in found}
    if strangers:
        raise MigrateError(
            f"--network: the container has no interface {min(strangers)} that leads outside",
            reason="net-link-missing",
        )
    plan = []
    for each in found:
        name = wanted.get(each.name, each.connected)
        if each.kind and name:
            plan.append(Outlet(f"{each.kind}[{each.name}]", name))
    return plan


def connection(outlet: Outlet) -> str:
    """What a restore is told about an outlet, as ``--external`` has it.

    Raises:
        ProtocolError: It is malformed.
    """
    if not _KEY.fullmatch(outlet.key) or not _NAME.fullmatch(outlet.name):
        raise ProtocolError("the offer names a malformed network interface")
    return f"veth%d@{outlet.name}" if outlet.key.startswith("veth[") else outlet.name


def taken(taps: Sequence[FrameTap]) -> tuple[HeldFrame, ...]:
    """What taps have taken down since the last time, as far as a message can hold it."""
    limit = _FRAMES_LIMIT // max(len(taps), 1)
    return tuple(HeldFrame(tap.index, frame) for tap in taps for frame in tap.take(limit))
