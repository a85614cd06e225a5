"""UTS namespaces: the host name and the domain name, which a program may have changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from formats.records.sandbox import HostName
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.kernel import namespaces
from runtime.kernel.visit import visiting_path

SAVED = (("host name", "host and domain name of UTS namespaces"),)
UNSET = "(none)"  # include/linux/uts.h, UTS_DOMAINNAME


class Uts(SandboxKind):
    """Host name and domain name."""

    name = "host name"
    namespace = "uts"
    records = (HostName,)

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[HostName]:
        with visiting_path(scope.path, "uts"):
            name, domain = namespaces.names()
        if scope.own and name == context.target.spec.get("hostname"):
            # The configuration's, which a restore may change (`wherry do` names it for the id).
            name = ""
        if scope.own and domain == (context.target.spec.get("domainname") or UNSET):
            domain = ""
        yield HostName(scope.ns_id, name, domain)

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[HostName]) -> None:
        for record in records:
            with visiting_path(place.path, "uts"):
                if record.hostname:
                    namespaces.sethostname(record.hostname)
                if record.domainname:
                    namespaces.setdomainname(record.domainname)
