"""Interfaces go up; addresses, routes, rules and neighbours are brought to what was saved."""

from __future__ import annotations

import errno
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from formats.records.network import Link, NetObject
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.engine.sandbox.network_errors import explained
from runtime.engine.sandbox.network_tables import TABLES, Table
from runtime.errors import RestoreError
from runtime.kernel import rtnetlink as rt
from runtime.kernel.netlink import NETLINK_ROUTE, Netlink

SAVED = (
    (
        "network configuration",
        "addresses with scope, label, peer and lifetimes; routes of all tables, with metrics and "
        "several next hops, and next-hop objects; rules; permanent and proxy neighbours; a "
        "bridge's static entries; address labels; queueing disciplines and their classes",
    ),
)


class NetworkObjects(SandboxKind):
    """Everything about the interfaces of a namespace that has a table of its own."""

    name = "network configuration"
    namespace = "net"
    records = (NetObject,)
    rank = 40

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[NetObject]:
        with Netlink(NETLINK_ROUTE, scope.path) as netlink:
            for table in TABLES:
                for entry in _present(netlink, table):
                    yield NetObject(scope.ns_id, table.name, entry)

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[NetObject]) -> None:
        known = {table.name for table in TABLES}
        for record in records:
            if record.kind not in known:
                raise RestoreError(
                    f"the image has a network object of kind {record.kind!r}",
                    reason="image-inconsistent",
                )
        with Netlink(NETLINK_ROUTE, place.path) as netlink:
            _set_flags(netlink, [r for r in files.all_of(Link) if r.ns_id == place.ns_id])
            for table in TABLES:
                _restore_table(netlink, table, [r.body for r in records if r.kind == table.name])


def _present(netlink: Netlink, table: Table) -> Iterator[bytes]:
    for request in _requests(netlink, table):
        try:
            yield from table.entries(netlink.dump(table.get, request))
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:  # a kernel without the family or the table
                raise


def _requests(netlink: Netlink, table: Table) -> Iterator[bytes]:
    if not table.per_link:
        yield from table.requests
        return
    for link in rt.links(netlink):
        for request in table.requests:
            yield request[:4] + struct.pack("=i", link.index) + request[8:]


def _set_flags(netlink: Netlink, links: list[Link]) -> None:
    """Set the interfaces' flags; up come first those that others are built on."""
    now = {link.index: link.flags for link in rt.links(netlink)}
    for record in _lower_first(links):
        change = (now.get(record.index, 0) ^ record.flags) & (rt.IFF_SETTABLE | rt.IFF_UP)
        if change:
            with explained(f"network interface {record.name}: flags"):
                rt.set_link(netlink, record.index, flags=record.flags, change=change)


def _lower_first(links: list[Link]) -> list[Link]:
    by_index = {link.index: link for link in links}
    found: dict[int, Link] = {}

    def visit(link: Link, depth: int = 0) -> None:
        lower = by_index.get(link.lower) if not link.lower_ns_id else None
        # The ends of a pair name each other.
        if lower is not None and lower.lower != link.index and depth < len(links):
            visit(lower, depth + 1)
        found.setdefault(link.index, link)

    for link in links:
        visit(link)
    return list(found.values())


def _restore_table(netlink: Netlink, table: Table, saved: list[bytes]) -> None:
    """Remove what is too much, and add what is missing, until the table is as it was saved."""
    with explained(table.name):
        wanted = [entry for body in saved if (entry := table.normal(body)) is not None]
    there = list(_present(netlink, table))
    too_much = Counter(map(table.key, there))
    too_much.subtract(map(table.key, wanted))
    for entry in there:
        if too_much[table.key(entry)] > 0:
            too_much[table.key(entry)] -= 1
            _remove(netlink, table, entry)
    missing = Counter(map(table.key, wanted))
    missing.subtract(map(table.key, _present(netlink, table)))
    waiting = []
    for entry in wanted:
        if missing[table.key(entry)] > 0:
            missing[table.key(entry)] -= 1
            waiting.append(entry)
    while waiting:
        waiting = _add_some(netlink, table, waiting)


def _remove(netlink: Netlink, table: Table, entry: bytes) -> None:
    try:
        netlink.ask(table.delete, entry)
    except OSError as exc:
        # It may have gone with another one: the routes of an address, for instance.
        if exc.errno not in (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL):
            raise RestoreError(f"{table.name} {entry.hex()}: cannot be removed: {exc}") from exc


def _add_some(netlink: Netlink, table: Table, waiting: list[bytes]) -> list[bytes]:
    """Add what can be added; returns what needs other entries first."""
    left = []
    failure: OSError | None = None
    for entry in waiting:
        try:
            netlink.ask(table.new, entry, table.flags)
        except FileExistsError:
            pass  # the kernel has added it on account of another one
        except OSError as exc:
            failure = failure or exc
            left.append(entry)
    if len(left) == len(waiting):
        raise RestoreError(f"{table.name} {left[0].hex()}: {failure}") from failure
    return left
