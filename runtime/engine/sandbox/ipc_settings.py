"""The parameters of an IPC namespace, which its programs may have changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from formats.records.ipc import IpcSettings
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.errors import RestoreError
from runtime.kernel.visit import visiting_path

SAVED = (("IPC parameters", "kernel.shm*, kernel.sem, kernel.msg* and fs.mqueue.* of namespaces"),)
_NAMES = (
    *(f"kernel/{name}" for name in ("shmmax", "shmall", "shmmni", "shm_rmid_forced", "sem")),
    *(f"kernel/{name}" for name in ("msgmax", "msgmnb", "msgmni")),
    *(f"fs/mqueue/{name}" for name in ("queues_max", "msg_max", "msgsize_max")),
    *(f"fs/mqueue/{name}" for name in ("msg_default", "msgsize_default")),
)
_VALUE = re.compile(r"\d{1,20}(\t\d{1,20})*")


class Settings(SandboxKind):
    """The parameters below kernel and fs.mqueue in /proc/sys."""

    name = "IPC parameters"
    namespace = "ipc"
    records = (IpcSettings,)
    rank = 90  # what other kinds have changed for a moment is put right at the end

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[IpcSettings]:
        values = {}
        with visiting_path(scope.path, "ipc"):
            for name in _NAMES:
                path = _path(name)
                if path.exists():  # fs.mqueue is an option of the kernel
                    values[name] = path.read_text().strip()
        if scope.own:
            for name, value in _configured(context).items():
                if values.get(name) == value:
                    del values[name]  # the configuration's, which a restore may change
        yield IpcSettings(scope.ns_id, values)

    def finish(self, files: RestoredFiles, place: Place, records: Sequence[IpcSettings]) -> None:
        for record in records:
            for name, value in record.values.items():
                if name not in _NAMES or not _VALUE.fullmatch(value):
                    raise RestoreError(
                        f"the image sets {name!r} to {value!r}", reason="image-inconsistent"
                    )
            with visiting_path(place.path, "ipc"):
                for name, value in record.values.items():
                    path = _path(name)
                    # Without the rights over the parameter it can only stay what it is.
                    if path.read_text().strip() != value:
                        path.write_text(value)


def _path(name: str) -> Path:
    return Path("/proc/sys") / name


def _configured(context: DumpContext) -> dict[str, str]:
    linux = context.target.spec.get("linux") or {}
    settings = linux.get("sysctl") or {}
    return {
        name.replace(".", "/"): "\t".join(str(value).split()) for name, value in settings.items()
    }
