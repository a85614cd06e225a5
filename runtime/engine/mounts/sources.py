"""File systems to mount from: those that the new sandbox has, and those that are made for it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping, Sequence

from formats.records.files import DeletedFile, Tree
from formats.records.mounts import MountPoint
from runtime.engine.files.nsfs import path_of
from runtime.engine.files.restored import FileSystem, RestoredFiles
from runtime.engine.mounts.describe import OF_KERNEL, OF_MEMORY, OF_OBJECTS
from runtime.engine.mounts.scan import HostProc
from runtime.engine.new_task import NewTask
from runtime.engine.remote import Batch, CallFailedError
from runtime.errors import RestoreError
from runtime.kernel.aside import MountHand
from runtime.kernel.mount import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    OPEN_TREE_CLONE,
    open_tree,
)
from runtime.kernel.mountinfo import Mount, read_mounts
from runtime.kernel.openat2 import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

_LITERAL = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
_LAYERS = ("lowerdir", "lowerdir+", "datadir+")


class Sandbox:
    """One mount namespace as the new sandbox has made it, or a copy of that.

    Attributes:
        pid: A task in it.
        hand: Works in it.
        fresh: Its mounts.
        live: The mount of each record that the sandbox has made, by the record's number.
    """

    def __init__(self, pid: int, records: Sequence[MountPoint]) -> None:
        self.pid = pid
        self.hand = MountHand(f"/proc/{pid}/ns/mnt")
        self.fresh = read_mounts(pid)
        self._root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._proc = HostProc()
        self.live: dict[int, Mount] = {}
        left = list(self.fresh)
        for record in records:
            key = record.point, record.fstype
            found = next((m for m in left if record.given and (m.point, m.fstype) == key), None)
            if found is not None:
                left.remove(found)
                self.live[record.mount_id] = found

    def close(self) -> None:
        """Close what is open."""
        self.hand.close()
        self._proc.close()
        os.close(self._root)

    def open_top(self, mount: Mount) -> int | None:
        """A descriptor of the top of a mount; None when something covers it."""
        try:
            fd = openat2(self._root, mount.point.lstrip("/") or ".", os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return None
        if self._proc.mount_id(fd) == mount.mount_id:
            return fd
        os.close(fd)
        return None


def below(root: str, top: str) -> str:
    """*root* relative to *top*, both paths of one file system.

    Raises:
        RestoreError: It is not below it.
    """
    if top not in ("/", root) and not root.startswith(f"{top}/"):
        raise RestoreError(
            f"{root} of a file system is not in what the container has of it, {top}",
            reason="mount-missing",
        )
    return root[len(top.rstrip("/")) :].strip("/") or "."


def make_file_systems(
    files: RestoredFiles, task: NewTask, sandbox: Sandbox, records: Sequence[MountPoint]
) -> None:
    """Have a detached mount of every file system that *records* need.

    Raises:
        RestoreError: The kernel refused.
    """
    added = [record for record in records if not record.given]
    needed = {record.fs_id for record in files.all_of(MountPoint) if not record.given}
    needed |= {tree.fs_id for tree in files.all_of(Tree)}
    for record in records:
        mount = sandbox.live.get(record.mount_id)
        if mount is None or record.removed or record.fs_id in files.file_systems:
            continue
        top = sandbox.open_top(mount) if record.fs_id in needed else None
        if top is not None:
            try:
                clone = sandbox.hand.do(clone_of, top)
            finally:
                os.close(top)
            files.file_systems[record.fs_id] = FileSystem(record.root, clone, sandbox.pid)
    for record in added:
        is_new = record.fs_id not in files.file_systems
        if is_new and not (record.key or record.namespace_id or record.fstype == "overlay"):
            made = make_file_system(files, task, record)
            files.file_systems[record.fs_id] = FileSystem("/", made, 0)


def clone_of(fd: int) -> int:
    """A detached copy of the mount at *fd*, without what is mounted below it."""
    return open_tree(fd, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)


def make_file_system(files: RestoredFiles, task: NewTask, record: MountPoint) -> int:
    """Have a task of the container make a file system, whose namespaces then decide what it shows.

    Returns:
        A detached mount of it.
    """
    if record.fstype not in OF_MEMORY | OF_KERNEL | OF_OBJECTS | {"overlay"}:
        raise RestoreError(
            f"mount {record.point} is of type {record.fstype}, which no image holds",
            reason="image-inconsistent",
        )
    batch = Batch()
    fs = batch.call("fsopen", _text(record.fstype), FSOPEN_CLOEXEC)
    batch.call("fsconfig", fs, FSCONFIG_SET_STRING, b"source\0", _text(record.source), 0)
    for key, value in _options(record):
        if value is None:
            batch.call("fsconfig", fs, FSCONFIG_SET_FLAG, _text(key), 0, 0)
        else:
            batch.call("fsconfig", fs, FSCONFIG_SET_STRING, _text(key), _text(value), 0)
    batch.call("fsconfig", fs, FSCONFIG_CMD_CREATE, 0, 0, 0)
    made = batch.call("fsmount", fs, FSMOUNT_CLOEXEC, 0)
    batch.call("close", fs)
    try:
        return files.take_from(task, task.do(batch)[made])
    except CallFailedError as exc:
        raise RestoreError(
            f"mount {record.point} ({record.fstype}, {record.data}): {exc.strerror}",
            reason="mount-failed",
        ) from exc


def _text(text: str) -> bytes:
    return os.fsencode(text) + b"\0"


def _options(record: MountPoint) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for word in record.data.split(","):
        key, equals, value = word.partition("=")
        if not word:
            continue
        if record.fstype == "overlay" and key in _LAYERS:
            # One layer a call: together they may be longer than an option can be.
            found += [
                ("lowerdir+" if key == "lowerdir" else key, path) for path in value.split(":")
            ]
        else:
            found.append((key, value if equals else None))
    return found


def open_root(files: RestoredFiles, tree: Tree) -> int:
    """Open the directory that a tree is put into; what leads there is made."""
    base = files.file_systems.get(tree.fs_id)
    if base is None:
        raise RestoreError(
            f"{tree.path}: the image carries files of a file system that it has no mount of",
            reason="image-inconsistent",
        )
    current = os.dup(base.fd)
    try:
        for name in below(tree.root, base.root).split("/"):
            if name == ".":
                continue
            try:
                os.mkdir(name, 0o755, dir_fd=current)
            except FileExistsError:
                pass
            following = openat2(current, name, os.O_PATH | os.O_DIRECTORY, resolve=_LITERAL)
            os.close(current)
            current = following
    except OSError as exc:
        os.close(current)
        raise RestoreError(
            f"{tree.path}: {os.strerror(exc.errno or 0)} at {tree.root} of its file system",
            reason="image-path",
        ) from exc
    return current


def source_of(
    files: RestoredFiles,
    task: NewTask,
    sandbox: Sandbox,
    hands: Mapping[int, MountHand],
    record: MountPoint,
    undo: contextlib.ExitStack,
) -> int:
    """A detached mount of what a record shows.

    Something removed has its name until *undo* closes, for without one it cannot be attached.

    Raises:
        RestoreError: It is missing here.
    """
    if record.key:
        path = files.options.external.get(record.key)
        if path is None:
            raise RestoreError(
                f"mount {record.point} comes from outside; say what it is: "
                f"--external mnt[{record.key}]:PATH",
                reason="external-missing",
            )
        return open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | AT_RECURSIVE)
    if record.namespace_id:
        return _bound_namespace(files, sandbox, record)
    if record.fs_id not in files.file_systems and record.fstype == "overlay":
        made = make_file_system(files, task, record)
        files.file_systems[record.fs_id] = FileSystem("/", made, 0)
    if record.fs_id not in files.file_systems:
        raise RestoreError(
            f"mount {record.point} shows a file system that the new container lacks",
            reason="mount-missing",
        )
    base = files.file_systems[record.fs_id]
    if record.deleted_object_id:
        ghost = files.record_of(DeletedFile, record.deleted_object_id)
        if ghost.fs_id == record.fs_id:
            files.make_deleted_of(base.fd, [ghost], undo)
        fd = files.open_deleted(record.deleted_object_id, os.O_PATH)
    else:
        fd = _open_literally(base.fd, below(record.root, base.root), record)
    # What is attached nowhere can be copied where it was made, and then go anywhere.
    hand = hands.get(base.pid, sandbox.hand)
    try:
        return hand.do(clone_of, fd)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        raise RestoreError(
            f"mount {record.point}: this kernel cannot copy a mount that is attached nowhere "
            "(Linux 6.15)",
            reason="mount-failed",
        ) from exc
    finally:
        os.close(fd)


def _open_literally(base: int, path: str, record: MountPoint) -> int:
    try:
        return openat2(base, path, os.O_PATH | os.O_NOFOLLOW, resolve=_LITERAL)
    except OSError as exc:
        raise RestoreError(
            f"mount {record.point}: {os.strerror(exc.errno or 0)} at {record.root} of its "
            "file system",
            reason="mount-missing",
        ) from exc


def open_place(top: int, record: MountPoint) -> int:
    """Open what a mount is to stand on, on the mount whose top is *top*."""
    if record.place == ".":
        return os.dup(top)
    try:
        return openat2(top, record.place, os.O_PATH | os.O_NOFOLLOW, resolve=_LITERAL)
    except OSError as exc:
        raise RestoreError(
            f"mount point {record.point}: {os.strerror(exc.errno or 0)}", reason="mount-missing"
        ) from exc


def _bound_namespace(files: RestoredFiles, sandbox: Sandbox, record: MountPoint) -> int:
    fd = os.open(path_of(files, record.namespace_id), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return sandbox.hand.do(clone_of, fd)
    finally:
        os.close(fd)
