"""The mounts of a container, and whether a file can be reached by its name inside."""

from __future__ import annotations

import os
from functools import cached_property

from runtime.kernel import proc_fdinfo
from runtime.kernel.mountinfo import Mount, read_mounts
from runtime.kernel.openat2 import RESOLVE_IN_ROOT, openat2


class MountTable:
    """The mounts of a container's init, and look-ups below its root."""

    def __init__(self, init_pid: int) -> None:
        self._root = f"/proc/{init_pid}/root"
        self.mounts = {mount.mount_id: mount for mount in read_mounts(init_pid)}

    @cached_property
    def root_id(self) -> int:
        """The mount that the container's "/" is on."""
        return mount_of(self._root)

    def holds(self, mount_id: int) -> bool:
        """Whether a mount is one of the container's."""
        return mount_id in self.mounts

    def reaches(self, path: str, status: os.stat_result) -> bool:
        """Whether *path*, looked up inside the container, is the file of *status*."""
        try:
            found = stat_inside(self._root, path)
        except OSError:
            return False
        if found.st_dev == status.st_dev and self._is_parameter(path, status):
            return True  # what we find there is that of our own namespaces
        return (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino)

    def _is_parameter(self, path: str, status: os.stat_result) -> bool:
        return any(
            mount.fstype == "proc"
            and mount.device == status.st_dev
            and below(mount, path).startswith("/sys/")
            for mount in self.mounts.values()
        )


def below(mount: Mount, path: str) -> str:
    """*path* as seen from the top of the file system of *mount*; empty when not on it."""
    point = mount.point.rstrip("/")
    if path != mount.point and not path.startswith(f"{point}/"):
        return ""
    return os.path.normpath(f"{mount.root}/{path[len(point) :]}")


def mount_of(path: str) -> int:
    """The id of the mount that *path*, links followed, is on."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return proc_fdinfo.fdinfo(os.getpid(), fd).mount_id
    finally:
        os.close(fd)


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
        flags: open(2) flags; O_CLOEXEC is added, and O_ASYNC left out: taken by open(2), it does
            nothing and can never be set in earnest again.
        mode: For O_CREAT.

    Raises:
        OSError: As openat2(2).
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(
            top,
            path.lstrip("/") or ".",
            flags & ~os.O_ASYNC | os.O_CLOEXEC,
            mode=mode,
            resolve=RESOLVE_IN_ROOT,
        )
    finally:
        os.close(top)
