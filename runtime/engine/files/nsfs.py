"""Descriptors of namespaces: files of /proc/PID/ns, opened there or where they are mounted."""

from __future__ import annotations

import os
import stat

from formats.records.sandbox import Namespace, NamespaceFile
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.mounts import open_inside
from runtime.engine.files.restored import RestoredFiles, open_again
from runtime.engine.files.table import FileTable
from runtime.errors import RestoreError
from runtime.kernel import namespaces

SAVED = (("namespace descriptors", "of every kind, also the only ones that hold their namespace"),)
REFUSED = (("namespace-outside", "a descriptor of a namespace that is not the container's"),)


class NamespaceFiles(Kind):
    """A descriptor of a namespace."""

    name = "namespace descriptors"
    rank = 60
    record = NamespaceFile

    def matches(self, table: FileTable, look: Look) -> bool:
        device: int = table.once("nsfs", lambda: os.stat("/proc/self/ns/net").st_dev)
        return (
            look.stat.st_dev == device
            and stat.S_ISREG(look.stat.st_mode)
            and not look.flags & os.O_PATH
        )

    def dump(self, table: FileTable, look: Look, file_id: int) -> NamespaceFile | None:
        fd = look.duplicate()
        try:
            scope = table.context.scopes.get((namespaces.kind_of(fd), look.stat.st_ino))
        finally:
            os.close(fd)
        if scope is None:
            table.refuse(look, "namespace-outside", "is of a namespace that is not the container's")
            return None
        return NamespaceFile(
            file_id=file_id,
            ns_id=scope.ns_id,
            flags=look.flags,
            path=look.link if look.link.startswith("/") else "",
            owner=table.owner(look),
        )

    def restore(self, files: RestoredFiles, record: NamespaceFile) -> int:
        wanted = os.open(path_of(files, record.ns_id), os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = _mounted(files, record, wanted)
            return open_again(wanted, record.flags) if found is None else found
        finally:
            os.close(wanted)


def path_of(files: RestoredFiles, ns_id: int) -> str:
    """A file of ours that stands for a namespace of the image."""
    if ns_id in files.places:
        return files.places[ns_id].path
    namespace = next((n for n in files.all_of(Namespace) if n.ns_id == ns_id), None)
    if namespace is None or not namespace.own:
        raise RestoreError(
            f"the image names namespace {ns_id}, which it lacks",
            reason="image-inconsistent",
        )
    return f"/proc/{files.init.pid}/ns/{namespace.kind}"


def _mounted(files: RestoredFiles, record: NamespaceFile, wanted: int) -> int | None:
    """The same namespace where it was opened, if it is mounted there (again)."""
    if not record.path:
        return None
    try:
        fd = open_inside(files.root, record.path, record.flags)
    except OSError:
        return None
    if os.path.sameopenfile(fd, wanted):
        return fd
    os.close(fd)
    return None
