"""The mounts of a container, and whether a file can be reached by its name inside."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from runtime.kernel.openat2 import RESOLVE_IN_ROOT, openat2
from runtime.kernel.proc_maps import unescape


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo, man 5 proc_pid_mountinfo.

    Attributes:
        mount_id: Unique while mounted.
        parent_id: The mount it stands on.
        device: st_dev of its files.
        root: Path of its top within its file system.
        point: Where it is, as the container sees it.
        options: Per-mount options.
        fstype: For instance "overlay".
        source: What was mounted.
        super_options: Of the file system.
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


def read_mounts(pid: int) -> list[Mount]:
    """The mounts that a process sees below its root."""
    found = []
    for line in Path(f"/proc/{pid}/mountinfo").read_bytes().splitlines():
        head, _, tail = line.partition(b" - ")
        mount_id, parent_id, device, root, point, options = head.split()[:6]
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
            )
        )
    return found


class MountTable:
    """The mounts of a container's init, and look-ups below its root."""

    def __init__(self, init_pid: int) -> None:
        self._root = f"/proc/{init_pid}/root"
        self.mounts = {mount.mount_id: mount for mount in read_mounts(init_pid)}

    def holds(self, mount_id: int) -> bool:
        """Whether a mount is one of the container's."""
        return mount_id in self.mounts

    def reaches(self, path: str, status: os.stat_result) -> bool:
        """Whether *path*, looked up inside the container, is the file of *status*."""
        try:
            found = stat_inside(self._root, path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino)


def stat_inside(root: str, path: str) -> os.stat_result:
    """lstat(2) a path below a container's root, whose links cannot lead out of it."""
    fd = open_inside(root, path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def open_inside(root: str, path: str, flags: int, mode: int = 0) -> int:
    """Open a path below a container's root, whose links cannot lead out of it.

    Args:
        root: Directory that is "/" for the container, for instance /proc/PID/root.
        path: As the container says it.
        flags: open(2) flags; O_CLOEXEC is added.
        mode: For O_CREAT.

    Raises:
        OSError: As openat2(2).
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(
            top, path.lstrip("/") or ".", flags | os.O_CLOEXEC, mode=mode, resolve=RESOLVE_IN_ROOT
        )
    finally:
        os.close(top)
