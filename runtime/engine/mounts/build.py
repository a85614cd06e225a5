"""Mounts put back: what a program had done to a namespace is done again to a fresh one.

A namespace starts as the sandbox has made it, or as a copy of that. Mounts that are gone go; each
other one is attached to its parent, in an order in which no place is hidden before it is needed. A
file that will be hidden is opened, and one that has lost its name made, before anything is mounted
over it. Everything is private meanwhile; who shares with whom is set at the end, across namespaces.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

from formats.records.files import DeletedFile, Pipe, RegularFile
from formats.records.mounts import MountPoint
from formats.records.unix import UnixSocket
from runtime.engine.files.mounts import open_inside
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.mounts import sources
from runtime.engine.mounts.groups import Groups
from runtime.engine.sandbox.kind import Place
from runtime.errors import RestoreError
from runtime.kernel.aside import MountHand
from runtime.kernel.mount import (
    MNT_DETACH,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    UMOUNT_NOFOLLOW,
    fsconfig_flag,
    fsconfig_reconfigure,
    fsconfig_string,
    fspick,
    mount_setattr,
    move_mount,
    pivot_root,
    umount2,
)

ALL_ATTRIBUTES = (
    MOUNT_ATTR_NOSUID
    | MOUNT_ATTR_NODEV
    | MOUNT_ATTR_NOEXEC
    | MOUNT_ATTR__ATIME
    | MOUNT_ATTR_NODIRATIME
    | MOUNT_ATTR_NOSYMFOLLOW
)


def make_file_systems(files: RestoredFiles, place: Place, records: Sequence[MountPoint]) -> None:
    """Have every file system that the mounts of a namespace show, attached nowhere yet."""
    sandbox = sources.Sandbox(place.task.tid, records)
    with _explained(), contextlib.closing(sandbox):
        sources.make_file_systems(files, place.task, sandbox, records)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what the kernel refuses into a failed restore."""
    try:
        yield
    except OSError as exc:
        raise RestoreError(
            f"the mounts cannot be put back: {exc.strerror}", reason="mount-failed"
        ) from exc


def arrange(files: RestoredFiles, held: Sequence[tuple[Place, Sequence[MountPoint]]]) -> None:
    """Attach every mount of every namespace, and set what they share.

    Raises:
        RestoreError: Something is missing, or the kernel refused.
    """
    with _explained(), contextlib.ExitStack() as stack:
        groups = Groups(files)
        sandboxes = [
            stack.enter_context(contextlib.closing(sources.Sandbox(place.task.tid, records)))
            for place, records in held
        ]
        hands = {sandbox.pid: sandbox.hand for sandbox in sandboxes}
        for sandbox, (place, records) in zip(sandboxes, held, strict=True):
            _Arrangement(files, place, sandbox, hands, records).run()
            groups.add(sandbox, records)
        groups.connect()


class _Arrangement:
    """One namespace being arranged."""

    def __init__(
        self,
        files: RestoredFiles,
        place: Place,
        sandbox: sources.Sandbox,
        hands: Mapping[int, MountHand],
        records: Sequence[MountPoint],
    ) -> None:
        self.files = files
        self.place = place
        self.sandbox = sandbox
        self.hand = sandbox.hand
        self.hands = hands
        self.records = {record.mount_id: record for record in records if not record.removed}
        self.removed = {record.mount_id for record in records if record.removed}
        self.old_root = self._old_root()

    def _old_root(self) -> int:
        """The fresh namespace's root mount; its number in /proc."""
        ids = {mount.mount_id for mount in self.sandbox.fresh}
        return next(m.mount_id for m in self.sandbox.fresh if m.parent_id not in ids)

    def run(self) -> None:
        """Do it."""
        for number, mount in self.sandbox.live.items():
            top = None if number in self.removed else self.sandbox.open_top(mount)
            if top is not None:
                self.files.tops[number] = top
                self._settle(self.records[number])
        pending = [record for record in self.records.values() if not self._stands(record)]
        self._remove()
        last = [r for r in pending if self._is_old_root(r)]  # it can move when it is root no more
        pending = [r for r in pending if r not in last]
        new_root = next((record for record in pending if not record.parent_id), None)
        self._attach_all(pending, last)
        if new_root is not None:
            self._change_root(new_root, last)

    def _is_old_root(self, record: MountPoint) -> bool:
        mount = self.sandbox.live.get(record.mount_id)
        return mount is not None and mount.mount_id == self.old_root

    def _stands(self, record: MountPoint) -> bool:
        """Whether a mount needs nothing: the sandbox has made it, and where it belongs."""
        mount = self.sandbox.live.get(record.mount_id)
        if mount is None:
            # Another sandbox masks other paths; what nothing stands on is not missed.
            return record.given
        parent = self.sandbox.live.get(record.parent_id)
        if parent is None:
            return not record.parent_id and mount.mount_id == self.old_root
        return mount.parent_id == parent.mount_id

    def _remove(self) -> None:
        for mount in reversed(self.sandbox.fresh):
            numbers = [n for n, m in self.sandbox.live.items() if m.mount_id == mount.mount_id]
            if not set(numbers) & self.removed or mount.mount_id == self.old_root:
                continue
            top = self.sandbox.open_top(mount)
            if top is not None:
                os.close(top)
                self.hand.do(umount2, mount.point, MNT_DETACH | UMOUNT_NOFOLLOW)

    def _attach_all(self, pending: list[MountPoint], later: list[MountPoint]) -> None:
        waiting = {record.mount_id for record in later}
        while pending:
            ready = [record for record in pending if self._is_ready(record, pending)]
            if not ready:
                left = [r for r in pending if r.parent_id not in waiting]
                raise RestoreError(
                    f"mount {(left or pending)[0].point} stands on one that is missing",
                    reason="mount-missing",
                )
            self._attach(ready[0])
            pending.remove(ready[0])

    def _is_ready(self, record: MountPoint, pending: list[MountPoint]) -> bool:
        if record.parent_id and record.parent_id not in self.files.tops:
            return False
        # A place further down must be reached first.
        return not any(
            other.parent_id == record.parent_id and other.place.startswith(f"{record.place}/")
            for other in pending
        )

    def _attach(self, record: MountPoint) -> None:
        with contextlib.ExitStack() as undo:
            self._attach_named(record, undo)
        self._settle(record)

    def _attach_named(self, record: MountPoint, undo: contextlib.ExitStack) -> None:
        if record.mount_id in self.files.tops:
            fd = self.files.tops[record.mount_id]  # one of the sandbox's, in another place
        else:
            fd = sources.source_of(
                self.files, self.place.task, self.sandbox, self.hands, record, undo
            )
            self.files.tops[record.mount_id] = fd
            attributes = record.attributes & ALL_ATTRIBUTES if record.attributes >= 0 else 0
            self.hand.do(
                mount_setattr,
                fd,
                attr_set=attributes,
                attr_clear=ALL_ATTRIBUTES & ~attributes | MOUNT_ATTR__ATIME,
                propagation=MS_PRIVATE,
            )
        self._move(fd, record)

    def _move(self, fd: int, record: MountPoint) -> None:
        if record.parent_id:
            target = sources.open_place(self.files.tops[record.parent_id], record)
        else:
            target = os.open(
                f"/proc/{self.place.task.tid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            )
        try:
            self.hand.do(move_mount, fd, target)
        except OSError as exc:
            raise RestoreError(
                f"mount {record.point} ({record.fstype}): {os.strerror(exc.errno or 0)}",
                reason="mount-failed",
            ) from exc
        finally:
            os.close(target)

    def _change_root(self, top: MountPoint, later: list[MountPoint]) -> None:
        """Make the mount that stands over the root the root, as pivot_root(2) does."""
        fd = self.files.tops[top.mount_id]

        def pivot() -> None:
            os.fchdir(fd)
            pivot_root(".", ".")
            if not later:
                umount2(".", MNT_DETACH)

        self.hand.do(pivot)
        for record in later:
            self._move(self.files.tops[record.mount_id], record)
        if self.place.own:
            self.files.change_root(os.dup(fd))

    def _settle(self, record: MountPoint) -> None:
        """What has to be opened or made on a mount while nothing is mounted over it."""
        top = self.files.tops[record.mount_id]
        ghosts = [g for g in self.files.all_of(DeletedFile) if g.mount_id == record.mount_id]
        if ghosts:
            with contextlib.ExitStack() as undo:
                self.files.make_deleted_of(top, ghosts, undo)
        named: list[RegularFile | Pipe] = [*self.files.all_of(RegularFile)]
        named += self.files.all_of(Pipe)
        for file in named:
            key = (file.mount_id, file.inner)
            if file.mount_id != record.mount_id or not file.hidden or key in self.files.hidden:
                continue
            try:
                self.files.hidden[key] = open_inside(
                    f"/proc/self/fd/{top}", file.inner, os.O_PATH | os.O_NOFOLLOW
                )
            except OSError as exc:
                raise RestoreError(
                    f"{file.path}: {os.strerror(exc.errno or 0)} when it was opened again",
                    reason="file-missing",
                ) from exc
        for bound in self.files.all_of(UnixSocket):
            folder = record.mount_id, os.path.dirname(bound.inner)
            if (
                bound.mount_id == record.mount_id
                and bound.hidden
                and folder not in self.files.hidden
            ):
                path = f"/proc/self/fd/{top}"
                flags = os.O_PATH | os.O_DIRECTORY
                self.files.hidden[folder] = open_inside(path, folder[1] or ".", flags)


def make_read_only(files: RestoredFiles, place: Place, records: Sequence[MountPoint]) -> None:
    """What would have stood in the way of files, and changes of the sandbox's own mounts."""
    sandbox = sources.Sandbox(place.task.tid, records)
    with _explained(), contextlib.closing(sandbox):
        for record in records:
            top = files.tops.get(record.mount_id)
            if top is None or record.removed:
                continue
            if record.read_only or (record.given and record.data):
                sandbox.hand.do(_reconfigure, top, record)
            attributes = record.attributes & (ALL_ATTRIBUTES | MOUNT_ATTR_RDONLY)
            changed = record.attributes >= 0 and record.given
            if changed or (record.attributes >= 0 and attributes & MOUNT_ATTR_RDONLY):
                others = (ALL_ATTRIBUTES | MOUNT_ATTR_RDONLY) & ~attributes
                sandbox.hand.do(
                    mount_setattr,
                    top,
                    attr_set=attributes,
                    attr_clear=others | MOUNT_ATTR__ATIME,
                )


def _reconfigure(top: int, record: MountPoint) -> None:
    fs_fd = fspick(top)
    try:
        if record.given and record.fstype == "tmpfs":
            for word in record.data.split(","):
                key, equals, value = word.partition("=")
                if equals and key in ("size", "nr_inodes"):
                    fsconfig_string(fs_fd, key, value)
        fsconfig_flag(fs_fd, "ro" if record.read_only else "rw")
        fsconfig_reconfigure(fs_fd)
    finally:
        os.close(fs_fd)
