"""The numbers by which network namespaces know each other, as ``ip netns list-id`` shows them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from formats.records.network import NamespaceId
from formats.records.sandbox import Namespace
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.engine.sandbox.network_errors import explained
from runtime.errors import RestoreError
from runtime.kernel import rtnetlink
from runtime.kernel.netlink import NETLINK_ROUTE, Netlink
from runtime.kernel.socket_namespace import socket_namespace_inode


class NetworkIds(SandboxKind):
    """Numbers of other namespaces; before the links, which name each other's namespace by them."""

    name = "network namespace ids"
    namespace = "net"
    records = (NamespaceId,)
    rank = 20

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[NamespaceId]:
        for number, other in known_namespaces(context, scope).items():
            yield NamespaceId(scope.ns_id, other.ns_id, number)

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[NamespaceId]) -> None:
        with Netlink(NETLINK_ROUTE, place.path) as netlink:
            for record in records:
                other = place_of(files, record.other_id)
                fd = os.open(other.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    with explained(f"network namespace id {record.number}"):
                        rtnetlink.set_namespace_id(netlink, fd, record.number)
                finally:
                    os.close(fd)


def known_namespaces(context: DumpContext, scope: Scope) -> dict[int, Scope]:
    """The container's other network namespaces by the number that *scope* has for each."""
    others = [
        other
        for other in context.scopes.values()
        if other.kind == "net" and not other.external and other is not scope
    ]
    return dict(_known(scope, others)) if others else {}


def _known(scope: Scope, others: list[Scope]) -> Iterator[tuple[int, Scope]]:
    with Netlink(NETLINK_ROUTE, scope.path) as netlink:
        rtnetlink.links(netlink)  # gives numbers to the namespaces that its links lead to
        for other in others:
            fd = os.open(other.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                number = rtnetlink.namespace_id(netlink, fd)
            finally:
                os.close(fd)
            if number >= 0:
                yield number, other


def place_of(files: RestoredFiles, ns_id: int) -> Place:
    """The network namespace *ns_id* of the image.

    Raises:
        RestoreError: There is no such one.
    """
    place = files.places.get(ns_id)
    if place is None or place.kind != "net":
        raise RestoreError(
            f"the image names network namespace {ns_id}, which it lacks",
            reason="image-inconsistent",
        )
    return place


def scope_of_socket(context: DumpContext, fd: int) -> Scope | None:
    """The container's network namespace that a socket belongs to; None for one of others.

    Args:
        context: The dump.
        fd: A descriptor of ours for the socket, or for /dev/net/tun.
    """
    return context.scopes.get(("net", socket_namespace_inode(fd)))


def namespace_path(files: RestoredFiles, ns_id: int) -> str:
    """A path of ours to the network namespace of a socket; 0 stands for the container's.

    Raises:
        RestoreError: There is no such one.
    """
    namespaces: dict[int, Namespace] = files.once(
        "namespaces", lambda: {namespace.ns_id: namespace for namespace in files.all_of(Namespace)}
    )
    # One that is not the container's to save is the one that the sandbox has.
    external = ns_id in namespaces and namespaces[ns_id].external and namespaces[ns_id].own
    if not ns_id or (external and namespaces[ns_id].kind == "net"):
        return f"/proc/{files.init.tid}/ns/net"
    return place_of(files, ns_id).path
