"""Mount namespaces whose mounts are not those that the sandbox has made."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence

from formats.records.mounts import BinaryFormat, MountPoint
from runtime.engine.context import DumpContext
from runtime.engine.files.mounts import Mounted, TreeTop
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.mounts.binfmt import formats_of, register
from runtime.engine.mounts.build import arrange, make_file_systems, make_read_only
from runtime.engine.mounts.describe import (
    OF_MEMORY,
    OF_OBJECTS,
    Baseline,
    attributes_of,
    data_of,
    is_read_only,
    namespace_of,
    place_of,
    refusal,
    root_of,
    was_changed,
)
from runtime.engine.mounts.scan import Scan, scan
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.kernel.mountinfo import Mount, read_mounts

SAVED = (
    (
        "mounts",
        "made, moved, changed and removed by the program: tmpfs with its content, bind mounts, "
        "views of the kernel, overlays; mounts over mounts, attributes, propagation, changed "
        "roots; what is open on mounts of a namespace that everybody has left; "
        "binary formats that a user namespace has registered",
    ),
)
REFUSED = (
    ("mount-device", "a mount made by the program of a file system of a device or of the network"),
    ("mount-kind", "a mount made by the program of a file system that nobody can make again"),
    ("mount-overlay", "an overlay that names its layers by relative paths"),
    ("mount-idmapped", "a mount made by the program that maps user and group ids"),
    ("mount-content", "a mounted file system with objects that cannot be saved (BPF, huge pages)"),
    ("mount-namespace", "a bound file of a namespace that no process is in"),
    ("mount-hidden", "a mount that nothing leads to"),
)


class Mounts(SandboxKind):
    """What is mounted where."""

    name = "mounts"
    namespace = "mnt"
    records = (MountPoint,)
    rank = 60  # network namespaces that are bound exist by then

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[MountPoint]:
        if context.target.mounts is None:
            return ()
        pids = _members(context, scope)
        baseline = Baseline([tuple(entry) for entry in context.target.mounts])
        alone = sum(other.kind == "mnt" for other in context.scopes.values()) == 1
        if scope.own and alone and baseline.is_whole(read_mounts(scope.pid)):
            return ()
        seen = scan(pids)
        for fd in seen.fds():
            files.keep_open(fd)
        return _Namespace(context, files, scope, seen, baseline).records()

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[MountPoint]) -> None:
        make_file_systems(files, place, records)

    def arrange(
        self, files: RestoredFiles, held: Sequence[tuple[Place, Sequence[MountPoint]]]
    ) -> None:
        arrange(files, held)

    def finish(self, files: RestoredFiles, place: Place, records: Sequence[MountPoint]) -> None:
        for record in records:
            if record.formats:
                register(place.task, record)
        make_read_only(files, place, records)


def _members(context: DumpContext, scope: Scope) -> list[int]:
    """The processes in a mount namespace."""
    found = [scope.pid]
    for pid in context.frozen.pids:
        with contextlib.suppress(FileNotFoundError):  # a leader that has ended is nowhere
            if pid != scope.pid and os.stat(f"/proc/{pid}/ns/mnt").st_ino == scope.inode:
                found.append(pid)
    return found


class _Namespace:
    """One namespace while it is described."""

    def __init__(
        self,
        context: DumpContext,
        files: FileTable,
        scope: Scope,
        seen: Scan,
        baseline: Baseline,
    ) -> None:
        self.context = context
        self.files = files
        self.scope = scope
        self.seen = seen
        self.by_id = {mount.mount_id: mount for mount in seen.mounts}
        self.numbers = {mount.mount_id: context.new_id() for mount in seen.mounts}
        given = baseline.match(seen.mounts)
        sandboxes = files.mounts.given  # (point, type, root) to device, of the container's own
        if scope.own:
            for mount in seen.mounts:
                if mount.mount_id in given:
                    sandboxes[mount.point, mount.fstype, mount.root] = mount.device
        else:
            given = {
                number: entry
                for number, entry in given.items()
                if self._is_sandboxes(self.by_id[number])
            }
        self.given = given
        self.gone = [e for e in baseline.entries if e not in given.values()]
        self.external = _external(context.target.options.external)

    def _is_sandboxes(self, mount: Mount) -> bool:
        key = (mount.point, mount.fstype, mount.root)
        return self.files.mounts.given.get(key) == mount.device

    def records(self) -> list[MountPoint]:
        """A record for each mount, and one for each of the sandbox's that is gone."""
        devices = set(self.files.mounts.given.values())
        found = []
        for mount in self.seen.mounts:
            self._enter(mount)
            key = "" if mount.mount_id in self.given else self.external.get(mount.point, "")
            why = None
            if mount.mount_id not in self.given and not key and mount.device not in devices:
                why = refusal(mount) or self._content_refusal(mount)
            elif mount.mount_id not in self.given and "idmapped" in mount.options.split(","):
                why = refusal(mount)
            if why is not None:
                self._refuse(mount, *why)
                continue
            found.append(self._record(mount, key))
        self._note_trees()
        found += [
            MountPoint(
                ns_id=self.scope.ns_id,
                mount_id=self.context.new_id(),
                parent_id=0,
                place=".",
                point=entry[0],
                root="/",
                fs_id=0,
                fstype=entry[1],
                source="",
                given=True,
                removed=True,
            )
            for entry in self.gone
        ]
        return found

    def _enter(self, mount: Mount) -> None:
        self.files.mounts.entries[mount.mount_id] = Mounted(
            number=self.numbers[mount.mount_id],
            mount=mount,
            top=self.seen.tops.get(mount.mount_id, -1),
            root=self.seen.root,
            is_given=mount.mount_id in self.given,
            namespace=self.scope.inode,
        )

    def _refuse(self, mount: Mount, reason: str, sentence: str) -> None:
        self.context.refuse(reason, f"mount {mount.point} ({mount.fstype})", sentence)

    def _content_refusal(self, mount: Mount) -> tuple[str, str] | None:
        if mount.fstype in OF_OBJECTS:
            top = self.seen.tops.get(mount.mount_id, -1)
            if top < 0 or os.listdir(f"/proc/self/fd/{top}"):
                return "mount-content", "holds objects that wherry cannot save"
        bound = namespace_of(mount)
        if bound is not None and bound not in self.context.scopes:
            return "mount-namespace", "is a namespace that no process of the container is in"
        return None

    def _record(self, mount: Mount, key: str) -> MountPoint:
        parent = self.by_id.get(mount.parent_id)
        entry = self.given.get(mount.mount_id)
        options, propagation, data = (
            (True, True, True) if entry is None else was_changed(mount, entry)
        )
        bound = namespace_of(mount)
        return MountPoint(
            ns_id=self.scope.ns_id,
            mount_id=self.numbers[mount.mount_id],
            parent_id=0 if parent is None else self.numbers[parent.mount_id],
            place=place_of(mount, parent),
            point=mount.point,
            root=root_of(mount),
            fs_id=self.files.mounts.file_system(mount.device, self.context.new_id),
            fstype=mount.fstype,
            source=mount.source,
            data=data_of(mount) if data else "",
            read_only=data and is_read_only(mount),
            attributes=attributes_of(mount) if options else -1,
            shared=mount.group("shared"),
            master=mount.group("master"),
            unbindable=mount.unbindable,
            rewired=propagation,
            given=entry is not None,
            key=key,
            namespace_id=0 if bound is None else self.context.scopes[bound].ns_id,
            deleted_object_id=0 if entry is not None or key else self._deleted(mount),
            formats=() if entry is not None or key else self._formats(mount),
        )

    def _formats(self, mount: Mount) -> tuple[BinaryFormat, ...]:
        """What is registered in an instance of binfmt_misc, once for all mounts of it."""
        top = self.seen.tops.get(mount.mount_id, -1)
        if mount.fstype != "binfmt_misc" or mount.root != "/" or top < 0:
            return ()
        key = "binfmt_misc", mount.device
        if self.files.made(key) is not None:
            return ()
        return self.files.once(key, lambda: formats_of(mount, top, self.scope.path))

    def _deleted(self, mount: Mount) -> int:
        """The record of a mount's top that lost its name."""
        if root_of(mount) == mount.root:
            return 0
        top = self.seen.tops.get(mount.mount_id, -1)
        if top < 0:
            self._refuse(mount, "mount-hidden", "shows something removed that nothing leads to")
            return 0
        magic = f"/proc/self/fd/{top}"
        fs_id = self.files.mounts.file_system(mount.device, self.context.new_id)
        return self.files.add_deleted_top(root_of(mount), magic, fs_id)

    def _note_trees(self) -> None:
        """Remember which directories hold the content of file systems of memory."""
        shown = sorted(
            self.seen.mounts, key=lambda mount: mount.root.count("/") * (mount.root != "/")
        )
        for mount in shown:
            if mount.fstype not in OF_MEMORY or mount.root != root_of(mount):
                continue
            entry = self.given.get(mount.mount_id)
            if (
                entry is not None
                and "ro" in mount.options.split(",")
                and not was_changed(mount, entry)[0]
            ):
                continue  # a mask
            if self.external.get(mount.point) and entry is None:
                continue
            fs_id = self.files.mounts.file_system(mount.device, self.context.new_id)
            known = self.files.mounts.trees.setdefault(fs_id, [])
            if any(
                t.root in (mount.root, "/") or mount.root.startswith(f"{t.root}/") for t in known
            ):
                continue
            top = self.seen.tops.get(mount.mount_id, -1)
            if top < 0:
                self._refuse(mount, "mount-hidden", "has content that nothing leads to")
            elif stat.S_ISDIR(os.stat(f"/proc/self/fd/{top}").st_mode):
                known.append(TreeTop(fs_id, mount.root, mount.point, f"/proc/self/fd/{top}"))


def _external(options: Sequence[str]) -> dict[str, str]:
    """Mount point to key, of options ``mnt[PATH]:KEY``."""
    found = {}
    for option in options:
        if option.startswith("mnt[") and "]:" in option:
            point, _, key = option[4:].rpartition("]:")
            found["/" + point.strip("/")] = key
    return found
