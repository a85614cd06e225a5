"""The mounts of a container, and whether a file can be reached by its name inside."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from runtime.kernel import proc_fdinfo
from runtime.kernel.mountinfo import Mount, read_mounts
from runtime.kernel.openat2 import RESOLVE_IN_ROOT, openat2

DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount that the image has a record of.

    Attributes:
        number: Of the record.
        mount: What the kernel says of it.
        top: A descriptor of ours for its top with nothing mounted below; -1 for none.
        root: A descriptor of ours for the root of its namespace.
        is_given: Whether the sandbox has made it.
        namespace: Inode of that namespace.
    """

    number: int
    mount: Mount
    top: int
    root: int
    is_given: bool
    namespace: int


@dataclass(frozen=True, slots=True)
class TreeTop:
    """Where the content of a file system of memory is to be found.

    Attributes:
        fs_id: Of the file system.
        root: What is seen there: an absolute path in the file system.
        point: Where it is mounted, for people.
        path: A path of ours that leads there.
    """

    fs_id: int
    root: str
    point: str
    path: str


class MountTable:
    """The mounts of a container's init, and look-ups below its root.

    Attributes:
        mounts: What the init sees, by mount id.
        entries: Mounts of namespaces that are not as the sandbox has made them, by mount id.
        given: Device of each of the sandbox's own mounts that is left, by point, type and root.
        trees: What to save of file systems of memory, by file system.
    """

    def __init__(self, init_pid: int) -> None:
        self._root = f"/proc/{init_pid}/root"
        self.mounts = {mount.mount_id: mount for mount in read_mounts(init_pid)}
        self.entries: dict[int, Mounted] = {}
        self.given: dict[tuple[str, str, str], int] = {}
        self.trees: dict[int, list[TreeTop]] = {}
        self._file_systems: dict[int, int] = {}

    def file_system(self, device: int, new_id: Callable[[], int]) -> int:
        """The number in the image of the file system with this st_dev."""
        if device not in self._file_systems:
            self._file_systems[device] = new_id()
        return self._file_systems[device]

    def get(self, mount_id: int) -> Mount | None:
        """A mount of the container, in whatever namespace."""
        entry = self.entries.get(mount_id)
        return self.mounts.get(mount_id) if entry is None else entry.mount

    @cached_property
    def root_id(self) -> int:
        """The mount that the container's "/" is on."""
        return mount_of(self._root)

    def holds(self, mount_id: int) -> bool:
        """Whether a mount is one of the container's."""
        return mount_id in self.mounts or mount_id in self.entries

    def twin(
        self, namespace: int, path: str, magic: str, status: os.stat_result, program: str
    ) -> tuple[Mount, str] | None:
        """The mount that shows what another one shows, which is in no namespace any more.

        unshare(2) by the only process of a mount namespace leaves such mounts behind: those of the
        old one, held by what was open or mapped.

        Args:
            namespace: Inode of the one that is searched first.
            path: What the kernel calls a file there: its path below the top of its mount.
            magic: A link of /proc that leads to it.
            status: stat(2) of it.
            program: Such a link to the program of a process that has it.

        Returns:
            The mount and the file's path, with ``(deleted)`` where that is so; or None.
        """
        bare = path.removesuffix(DELETED)
        if status.st_nlink and bare == path:
            return self._same_file(namespace, path, status)
        if magic != program and mount_of(magic) == mount_of(program):
            # Which mount that is, a file that has its name can tell.
            known = self.twin(namespace, os.readlink(program), program, os.stat(program), program)
            candidates = [] if known is None else [known[0]]
        else:
            candidates = [m for m in self._from(namespace) if m.device == status.st_dev]
        for mount in candidates:
            full = _joined(mount, bare)
            if self._has_place(mount, full):
                return mount, f"{full}{path[len(bare) :]}"
        return None

    def _from(self, namespace: int) -> list[Mount]:
        """All mounts, those of one namespace first."""
        entries = sorted(self.entries.values(), key=lambda entry: entry.namespace != namespace)
        return [entry.mount for entry in entries] or list(self.mounts.values())

    def _same_file(
        self, namespace: int, path: str, status: os.stat_result
    ) -> tuple[Mount, str] | None:
        for mount in self._from(namespace):
            full = _joined(mount, path)
            entry = self.entries.get(mount.mount_id)
            top = self._root if entry is None else f"/proc/self/fd/{entry.top}"
            if entry is not None and entry.top < 0:
                continue
            try:
                found = stat_inside(top, full if entry is None else below_top(mount, full))
            except OSError:
                continue
            if (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino):
                return mount, full
        return None

    def _has_place(self, mount: Mount, path: str) -> bool:
        """Whether a removed file may have been on *mount*, at *path*."""
        entry = self.entries.get(mount.mount_id)
        if entry is not None and entry.top < 0:
            return False
        root = self._root if entry is None else f"/proc/self/fd/{entry.top}"
        inner = path if entry is None else below_top(mount, path)
        try:
            os.close(open_inside(root, os.path.dirname(inner) or ".", os.O_PATH))
        except OSError:
            return False
        return True

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

    def find(self, entry: Mounted, path: str, status: os.stat_result) -> tuple[str, bool] | None:
        """Look a file up on the mount that it is on.

        Args:
            entry: The mount.
            path: What the kernel calls the file.
            status: stat(2) of it.

        Returns:
            Its path below the mount's top, and whether something is mounted over it; None when it
            is not there.
        """
        inner = below_top(entry.mount, path)
        is_parameter = entry.mount.fstype == "proc" and below(entry.mount, path).startswith("/sys/")
        wanted = (status.st_dev, status.st_ino)
        if entry.top >= 0 and not is_parameter:
            try:
                found = stat_inside(f"/proc/self/fd/{entry.top}", inner)
            except OSError:
                return None
            if (found.st_dev, found.st_ino) != wanted:
                return None
        try:
            seen = open_inside(f"/proc/self/fd/{entry.root}", path, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return (inner, True) if entry.top >= 0 else None
        try:
            visible = mount_of(f"/proc/self/fd/{seen}") == entry.mount.mount_id
        finally:
            os.close(seen)
        return (inner, not visible) if visible or entry.top >= 0 else None


def _joined(mount: Mount, path: str) -> str:
    """Where what is at *path* below the top of a mount stands."""
    return mount.point if path == "/" else mount.point.rstrip("/") + path


def below_top(mount: Mount, path: str) -> str:
    """*path* relative to the top of *mount*; "." for the top itself."""
    return path[len(mount.point.rstrip("/")) :].strip("/") or "."


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
    if path == "." and not flags & os.O_NOFOLLOW:
        return os.open(root, flags | os.O_CLOEXEC, mode)  # which may be a mounted file
    top = os.open(root, os.O_PATH | os.O_CLOEXEC)
    try:
        if path == ".":
            return os.dup(top)
        return openat2(
            top,
            path.lstrip("/") or ".",
            flags & ~os.O_ASYNC | os.O_CLOEXEC,
            mode=mode,
            resolve=RESOLVE_IN_ROOT,
        )
    finally:
        os.close(top)
