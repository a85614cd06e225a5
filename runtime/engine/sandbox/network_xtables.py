"""Tables of iptables and ip6tables in their older form, with policies, rules and counters."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from formats.records.network import NetXTable
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.errors import RestoreError
from runtime.kernel import xtables

SAVED = (("packet filters", "iptables and ip6tables, also in their older form, with counters"),)

_HOOKS = 5  # NF_INET_NUMHOOKS
_MAX_COUNT = 1 << 20


class NetworkXTables(SandboxKind):
    """The tables of a network namespace that are in use."""

    name = "older packet filters"
    namespace = "net"
    records = (NetXTable,)
    rank = 50

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[NetXTable]) -> None:
        """Nothing yet: after the sockets, whose connections it might stand in the way of."""

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[NetXTable]:
        for family in xtables.FAMILIES.values():
            for name in xtables.table_names(scope.path, family):
                table = xtables.read_table(scope.path, family, name)
                yield NetXTable(
                    ns_id=scope.ns_id,
                    family=int(family.number),
                    name=name,
                    valid_hooks=table.valid_hooks,
                    hooks=table.hooks,
                    underflows=table.underflows,
                    count=table.count,
                    entries=table.entries,
                )

    def finish(self, files: RestoredFiles, place: Place, records: Sequence[NetXTable]) -> None:
        for record in reversed(records):  # the kernel lists the last one first
            family = next((f for f in xtables.FAMILIES.values() if f.number == record.family), None)
            if (
                family is None
                or not len(record.hooks) == len(record.underflows) == _HOOKS
                or not 0 <= record.count <= _MAX_COUNT
            ):
                raise RestoreError(
                    f"packet filter {record.name} of family {record.family}",
                    reason="image-inconsistent",
                )
            table = xtables.XTable(
                record.name,
                record.valid_hooks,
                record.hooks,
                record.underflows,
                record.count,
                record.entries,
            )
            try:
                xtables.write_table(place.path, family, table)
            except (ValueError, struct.error) as exc:
                raise RestoreError(str(exc), reason="image-inconsistent") from exc
            except OSError as exc:
                raise RestoreError(f"packet filter {record.name}: {exc}") from exc
