"""Propagation: which mounts share their changes with which, man 7 mount_namespaces.

A group is rebuilt from one member, which is made shared; the others are made like it. A group below
another takes its first member from that, as its slave. A group of which only slaves are the
container's lies outside: whatever the sandbox has that belongs to it stands for it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from formats.records.mounts import MountPoint
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.mounts.sources import Sandbox
from runtime.errors import RestoreError
from runtime.kernel.aside import MountHand
from runtime.kernel.mount import (
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
    mount_setattr,
    set_group,
)


class Groups:
    """The peer groups of an image."""

    def __init__(self, files: RestoredFiles) -> None:
        self._files = files
        self._records: list[MountPoint] = []
        self._hands: dict[int, MountHand] = {}
        self._ready: dict[int, list[MountPoint]] = {}  # members of a group that are in it

    def add(self, sandbox: Sandbox, records: Sequence[MountPoint]) -> None:
        """Add a namespace whose mounts stand."""
        for record in records:
            if record.mount_id in self._files.tops and not record.removed:
                self._records.append(record)
                self._hands[record.mount_id] = sandbox.hand

    def connect(self) -> None:
        """Set the propagation of every mount.

        Raises:
            RestoreError: The groups of the image cannot be.
        """
        for record in self._records:
            if record.shared:
                self._form(record.shared, ())
        for record in self._records:
            if not record.rewired:
                continue
            if record.master and not record.shared:
                self._set(record, MS_PRIVATE)
                self._follow(record, ())
            elif not record.shared:
                self._set(record, MS_UNBINDABLE if record.unbindable else MS_PRIVATE)

    def _form(self, group: int, above: tuple[int, ...]) -> None:
        if group in self._ready:
            return
        if group in above:
            raise RestoreError(f"peer group {group} is its own master", reason="image-inconsistent")
        members = [record for record in self._records if record.shared == group]
        ready = self._ready[group] = [record for record in members if not record.rewired]
        # A group is joined through a member that shows as much of the file system.
        for record in sorted(members, key=lambda record: len(record.root.rstrip("/"))):
            if record in ready:
                continue
            if ready:
                self._set(record, MS_PRIVATE)
                self._join(ready, record)
            else:
                if record.master:
                    self._set(record, MS_PRIVATE)
                    self._follow(record, (*above, group))
                elif not record.given:
                    self._set(record, MS_PRIVATE)
                self._set(record, MS_SHARED)
            ready.append(record)

    def _follow(self, record: MountPoint, above: tuple[int, ...]) -> None:
        """Make a private mount a slave of its master."""
        if any(other.shared == record.master for other in self._records):
            self._form(record.master, above)
            self._join(self._ready[record.master], record)
            self._set(record, MS_SLAVE)
            return
        outside = [r for r in self._records if r.master == record.master and not r.rewired]
        if outside:
            self._join(outside, record)

    def _join(self, members: Sequence[MountPoint], record: MountPoint) -> None:
        hand, tops = self._hands[record.mount_id], self._files.tops
        for member in members:
            root = member.root.rstrip("/")
            if member.fs_id != record.fs_id or not f"{record.root}/".startswith(f"{root}/"):
                continue
            try:
                hand.do(set_group, tops[member.mount_id], tops[record.mount_id])
            except OSError as exc:
                if exc.errno != errno.EINVAL:
                    raise
                continue
            return
        raise RestoreError(
            f"mount {record.point} cannot join its peer group again", reason="mount-propagation"
        )

    def _set(self, record: MountPoint, kind: int) -> None:
        top = self._files.tops[record.mount_id]
        self._hands[record.mount_id].do(mount_setattr, top, propagation=kind)
