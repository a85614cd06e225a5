"""/proc/PID/mountinfo: the mounts of a task's mount namespace below its root."""

from __future__ import annotations

import os
from dataclasses import dataclass

from runtime.kernel.escapes import unescape
from runtime.kernel.procfs import read_bytes


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo, man 5 proc_pid_mountinfo.

    Attributes:
        mount_id: Unique while mounted.
        parent_id: The mount it stands on.
        device: st_dev of its files.
        root: Path of its top within its file system.
        point: Where it is, as the task sees it.
        options: Per-mount options.
        fstype: For instance "overlay".
        source: What was mounted.
        super_options: Of the file system.
        propagation: The optional fields, such as "shared:3 master:1"; man 7 mount_namespaces.
    """

    mount_id: int
    parent_id: int
    device: int
    root: str
    point: str
    options: str
    fstype: str
    source: str
    super_options: str
    propagation: str = ""

    def group(self, kind: str) -> int:
        """Number of the peer group ("shared") or of the one above ("master"); 0 for none."""
        for word in self.propagation.split():
            name, _, number = word.partition(":")
            if name == kind:
                return int(number)
        return 0

    @property
    def unbindable(self) -> bool:
        """Whether it cannot be the source of a bind mount."""
        return "unbindable" in self.propagation.split()


def read_mounts(pid: int) -> list[Mount]:
    """The mounts that a task sees, in the kernel's order."""
    return parse_mounts(read_bytes(f"/proc/{pid}/mountinfo"))


def parse_mounts(text: bytes) -> list[Mount]:
    """The lines of a mountinfo file."""
    found = []
    for line in text.splitlines():
        head, _, tail = line.partition(b" - ")
        mount_id, parent_id, device, root, point, options, *optional = head.split()
        fstype, source, super_options = tail.split(b" ", 2)
        major, _, minor = device.partition(b":")
        found.append(
            Mount(
                mount_id=int(mount_id),
                parent_id=int(parent_id),
                device=os.makedev(int(major), int(minor)),
                root=unescape(root),
                point=unescape(point),
                options=options.decode(),
                fstype=fstype.decode(),
                source=unescape(source),
                super_options=unescape(super_options),
                propagation=b" ".join(optional).decode(),
            )
        )
    return found


def mount_points(pid: int) -> list[list[str]]:
    """What is mounted where, to see later whether that has changed.

    Each is [point, type, options, propagation, options of the file system].
    """
    return [
        [mount.point, mount.fstype, mount.options, mount.propagation, mount.super_options]
        for mount in read_mounts(pid)
    ]
