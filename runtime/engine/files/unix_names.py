"""Names of UNIX sockets in the file system.

A socket remembers two things: the text that was given to bind(2), and the file that this made. The
text may have been relative to a directory that nobody is in any more, the file may have been
renamed, removed, or replaced by another socket's. So a dump asks for the file itself
(SIOCUNIXFILE), and a restore binds the text where it leads to the right place if there is such a
root and directory, and else in a scratch directory, from which the file is moved to its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace

from formats.records.mounts import MountPoint
from formats.records.unix import UnixSocket
from runtime.engine.files.mounts import mount_of, open_inside
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.socket_mounts import mount_again, mounts_of
from runtime.engine.files.table import FileTable
from runtime.errors import RestoreError
from runtime.kernel import mount
from runtime.kernel.aside import with_own_directories

SIOCUNIXFILE = 0x89E0  # include/uapi/linux/un.h, Linux 4.2
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


# Dump


@dataclass(frozen=True, slots=True)
class Place:
    """The file of a socket: where it is now, empty for nowhere, and what fstat(2) says.

    ``mount_id``, ``inner`` and ``hidden`` are as of a `formats.records.unix.UnixSocket`.
    """

    path: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mount_id: int = 0
    inner: str = ""
    hidden: bool = False


def locate(table: FileTable, sock: socket.socket, name: bytes) -> Place:
    """Find the file of a socket that was bound to *name*."""
    if not name or name.startswith(b"\0"):
        return Place()
    fd = fcntl.ioctl(sock, SIOCUNIXFILE)
    try:
        magic = f"/proc/self/fd/{fd}"
        path, status, mount_id = os.readlink(magic), os.fstat(fd), mount_of(magic)
        if status.st_nlink and not table.mounts.holds(mount_id):
            namespace = os.stat(f"/proc/{table.context.target.init_pid}/ns/mnt").st_ino
            twin = table.mounts.twin(namespace, path, magic, status, magic)
            if twin is not None:
                mount_id, path = twin[0].mount_id, twin[1]
    finally:
        os.close(fd)
    place = Place("", status.st_mode, status.st_uid, status.st_gid)
    if not status.st_nlink:
        return place
    if table.mounts.reaches(path, status):
        return replace(place, path=path)
    entry = table.mounts.entries.get(mount_id)
    found = None if entry is None else table.mounts.find(entry, path, status)
    if entry is None or found is None:
        return place
    return replace(place, path=path, mount_id=entry.number, inner=found[0], hidden=found[1])


# Restore


@dataclass(slots=True)
class Node:
    """The file of a socket that has been bound again.

    Attributes:
        directory: Descriptor of ours.
        name: In that directory.
        keeps: Whether the name stays.
    """

    directory: int
    name: str
    keeps: bool

    @property
    def address(self) -> str:
        """A path of ours that leads to it."""
        return f"/proc/self/fd/{self.directory}/{self.name}"


class Names:
    """Binds sockets, and keeps their files for as long as somebody may want to connect.

    Args:
        files: The restore.
    """

    def __init__(self, files: RestoredFiles) -> None:
        self._files = files
        self._nodes: list[Node] = []
        self._limbo: int | None = None
        self._scratches = 0

    def bind(self, fd: int, record: UnixSocket) -> Node | None:
        """Bind a socket as *record* says; None for an abstract name."""
        return self.bind_to(fd, record.name, record.path, record)

    def bind_to(self, fd: int, name: bytes, path: str, owner: UnixSocket | None) -> Node | None:
        """Bind a socket to the text *name*, with its file at *path*.

        Args:
            fd: The socket.
            name: As given to bind(2), once.
            path: Where the file shall be, in the container; empty for nowhere.
            owner: Mode and owner of the file, if they matter.
        """
        with socket.socket(fileno=os.dup(fd)) as sock:
            if name.startswith(b"\0"):
                sock.bind(name)
                return None
            text = os.fsdecode(name)
            if owner is not None and owner.mount_id:
                node = self._on_mount(sock, text, owner)
            else:
                node = self._at_place(sock, text, path) if path else self._in_limbo(sock, text)
        self._nodes.append(node)
        if owner is not None and owner.mode:
            os.chown(node.address, owner.uid, owner.gid)
            os.chmod(node.address, owner.mode & 0o7777)
        return node

    def close(self) -> None:
        """Remove the files that have no name any more."""
        for node in self._nodes:
            if not node.keeps:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(node.name, dir_fd=node.directory)
            os.close(node.directory)
        self._nodes.clear()
        if self._limbo is not None:
            os.close(self._limbo)
            self._limbo = None

    def _at_place(self, sock: socket.socket, text: str, path: str) -> Node:
        place = open_inside(self._files.root, os.path.dirname(path), _DIRECTORY)
        node = Node(place, os.path.basename(path), keeps=True)
        with _unchanged_times(place):
            shown = self._make_room(node, path)
            base = _base_of(text, path)
            if base is None:
                self._move_here(sock, text, node)
            else:
                _bind_below(sock, text, self._files.root, base)
        mount_again(self._files, shown, node.directory, node.name)
        return node

    def _on_mount(self, sock: socket.socket, text: str, record: UnixSocket) -> Node:
        """Bind on a mount that the init does not see, or where something covers it."""
        folder, name = os.path.split(record.inner)
        if record.hidden:
            place = os.dup(self._files.hidden[record.mount_id, folder])
        elif record.mount_id in self._files.tops:
            top = f"/proc/self/fd/{self._files.tops[record.mount_id]}"
            place = open_inside(top, folder or ".", _DIRECTORY)
        else:
            raise RestoreError(
                f"{record.path} is on mount {record.mount_id}, which the image lacks",
                reason="image-inconsistent",
            )
        node = Node(place, name, keeps=True)
        with _unchanged_times(place):
            shown = self._make_room(node, record.path)
            self._move_here(sock, text, node)
        mount_again(self._files, shown, node.directory, node.name)
        return node

    def _make_room(self, node: Node, path: str) -> list[MountPoint]:
        """Remove what stands for the socket's file; returns the mounts that show it."""
        try:
            status = os.stat(node.name, dir_fd=node.directory, follow_symlinks=False)
        except FileNotFoundError:
            return []
        if not stat.S_ISSOCK(status.st_mode):
            raise RestoreError(
                f"{path}: a socket was here, and now there is something else",
                reason="file-changed",
            )
        shown = mounts_of(self._files, status)
        os.unlink(node.name, dir_fd=node.directory)
        return shown

    def _move_here(self, sock: socket.socket, text: str, node: Node) -> None:
        self._scratches += 1
        scratch = f".wherry-{os.getpid()}-{self._scratches}"
        os.mkdir(scratch, 0o700, dir_fd=node.directory)
        top = os.open(scratch, _DIRECTORY, dir_fd=node.directory)
        try:
            made, directories = _bind_in_scratch(sock, text, top)
            os.rename(made, node.name, src_dir_fd=top, dst_dir_fd=node.directory)
            for directory in reversed(directories):
                os.rmdir(directory, dir_fd=top)
        finally:
            os.close(top)
        os.rmdir(scratch, dir_fd=node.directory)

    def _in_limbo(self, sock: socket.socket, text: str) -> Node:
        """Bind where nobody can look: in a file system that is mounted nowhere."""
        if self._limbo is None:
            context = mount.fsopen("tmpfs")
            try:
                mount.fsconfig_create(context)
                self._limbo = mount.fsmount(context)
            finally:
                os.close(context)
        self._scratches += 1
        os.mkdir(str(self._scratches), 0o700, dir_fd=self._limbo)
        top = os.open(str(self._scratches), _DIRECTORY, dir_fd=self._limbo)
        try:
            made, _ = _bind_in_scratch(sock, text, top)
            directory = os.open(os.path.dirname(made) or ".", _DIRECTORY, dir_fd=top)
        finally:
            os.close(top)
        return Node(directory, os.path.basename(made), keeps=False)


def _base_of(text: str, path: str) -> str | None:
    """The directory from which *text* leads to *path*, if there is one; "/" for a full path."""
    if text == path:
        return "/"
    if not text.startswith("/") and path.endswith(f"/{text}"):
        return path[: -len(text) - 1] or "/"
    return None


def _bind_below(sock: socket.socket, text: str, root: str, base: str) -> None:
    """Bind *text* as a process would whose root is *root* and whose directory is *base*."""

    def bind() -> None:
        os.chroot(root)
        os.chdir(base)
        sock.bind(text)

    with_own_directories(bind)


def _bind_in_scratch(sock: socket.socket, text: str, top: int) -> tuple[str, list[str]]:
    """Bind *text* with the directory *top* as root.

    Returns:
        The file's path below *top*, and the directories that were made for it, the upper ones
        first.
    """
    made, directories = _way_of(text)

    def bind() -> None:
        os.fchdir(top)
        os.chroot(".")
        for directory in directories:
            os.mkdir(directory, 0o700)
        sock.bind(text)

    with_own_directories(bind)
    return made, directories


def _way_of(text: str) -> tuple[str, list[str]]:
    """Where a path leads below a root without links, and the directories it needs on the way."""
    here: list[str] = []
    directories: list[str] = []
    *way, last = [part for part in text.split("/") if part not in ("", ".")]
    for part in way:
        if part == "..":
            here = here[:-1]
            continue
        here.append(part)
        if "/".join(here) not in directories:
            directories.append("/".join(here))
    return "/".join([*here, last]), directories


@contextlib.contextmanager
def _unchanged_times(directory: int) -> Iterator[None]:
    """A directory whose times do not tell that files were made in it."""
    before = os.fstat(directory)
    yield
    os.utime(f"/proc/self/fd/{directory}", ns=(before.st_atime_ns, before.st_mtime_ns))
