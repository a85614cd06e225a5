"""The connection tracker's entries, on which stateful packet filters decide."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from formats.records.network import NetConnection
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.errors import RestoreError
from runtime.kernel import nfnetlink as nf
from runtime.kernel.visit import visiting_path

SAVED = (("connection tracking", "entries without translated addresses"),)

# include/uapi/linux/netfilter/nfnetlink_conntrack.h
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_PROTOINFO, CTA_HELP = 1, 2, 3, 4, 5
CTA_TIMEOUT, CTA_MARK, CTA_ZONE, CTA_LABELS = 7, 8, 18, 22
CTA_TUPLE_MASTER = 14
_KEPT = frozenset(
    {
        *(CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_PROTOINFO, CTA_HELP, CTA_TIMEOUT),
        *(CTA_MARK, CTA_ZONE, CTA_LABELS),
    }
)
# include/uapi/linux/netfilter/nf_conntrack_common.h
IPS_SRC_NAT, IPS_DST_NAT = 1 << 4, 1 << 5


class NetworkConnections(SandboxKind):
    """Tracked connections."""

    name = "connection tracking"
    namespace = "net"
    records = (NetConnection,)
    rank = 60

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[NetConnection]) -> None:
        """Nothing yet: after the sockets, whose connections it might stand in the way of."""

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[NetConnection]:
        if not _any(scope.path):
            return
        tracker = nf.Netfilter(scope.path, nf.NFNL_SUBSYS_CTNETLINK)
        left_out = 0
        for message in tracker.list(nf.IPCTNL_MSG_CT_GET):
            found = nf.attributes_of(message.body)
            (status,) = struct.unpack(">I", found.get(CTA_STATUS, bytes(4)))
            if status & (IPS_SRC_NAT | IPS_DST_NAT) or CTA_TUPLE_MASTER in found:
                left_out += 1
            else:
                yield NetConnection(scope.ns_id, nf.keep(message.body, _KEPT))
        left_out += len(
            nf.Netfilter(scope.path, nf.NFNL_SUBSYS_CTNETLINK_EXP).list(nf.IPCTNL_MSG_EXP_GET)
        )
        if left_out:
            context.warnings.append(
                f"{left_out} tracked connections, expected or with translated addresses, are lost"
            )

    def finish(self, files: RestoredFiles, place: Place, records: Sequence[NetConnection]) -> None:
        tracker = nf.Netfilter(place.path, nf.NFNL_SUBSYS_CTNETLINK)
        for record in records:
            try:
                tracker.add(nf.IPCTNL_MSG_CT_NEW, nf.keep(record.body, _KEPT))
            except FileExistsError:
                continue  # an interface that went up has sent something of the same kind
            except (ValueError, struct.error) as exc:
                raise RestoreError(
                    f"tracked connection: {exc}", reason="image-inconsistent"
                ) from exc
            except OSError as exc:
                raise RestoreError(f"tracked connection: {exc}") from exc


def _any(path: str) -> bool:
    """Whether a namespace has entries: a list costs milliseconds, for it covers all namespaces."""
    with visiting_path(path, "net"):
        try:
            with open("/proc/sys/net/netfilter/nf_conntrack_count") as file:
                return int(file.read()) > 0
        except FileNotFoundError:  # the module is not loaded
            return False
