"""Link-layer groups of interfaces that ``ip maddress add`` and the like have added."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from formats.records.network import LinkGroup
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.engine.sandbox.network_errors import explained
from runtime.kernel.link_groups import join_link_group, link_groups

SAVED = (("network links", "link-layer groups"),)


class NetworkGroups(SandboxKind):
    """Groups that interfaces listen to without any socket's wish."""

    name = "link-layer groups"
    namespace = "net"
    records = (LinkGroup,)
    rank = 38

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[LinkGroup]:
        for name, address in link_groups(scope.path):
            yield LinkGroup(scope.ns_id, name, address)

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[LinkGroup]) -> None:
        there = link_groups(place.path)
        for record in records:
            if (record.name, record.address) in there:
                continue
            with explained(f"group of network interface {record.name}"):
                join_link_group(place.path, record.name, record.address)
