"""Directory trees that an image carries: what the container changed on its root, and its tmpfs.

A tree of kind "overlay" is the upper directory itself, with the overlay's own marks (whiteouts are
character devices 0:0, opaque directories an extended attribute). It is put back before the overlay
is mounted. A tmpfs is captured and put back through its mount point.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from formats.records.files import Inode, Tree
from formats.statefile import Chunk, ImageWriter
from runtime.engine.context import DumpContext
from runtime.engine.dump_memory import write_file_pages
from runtime.engine.inode_numbers import AnyNumbers, Numbers
from runtime.engine.xattrs import read_xattrs
from runtime.errors import RestoreError

SAVED = (
    (
        "file systems",
        "the overlay's upper directory and the container's own tmpfs mounts (`/dev/shm` and "
        "others)",
    ),
)


@dataclass(slots=True)
class TreeDump:
    """A tree while it is dumped: the records, and what to read the contents from."""

    tree: Tree
    top: str
    inodes: list[Inode] = field(default_factory=list)

    def contents(self) -> Iterator[tuple[Inode, str]]:
        """The regular files with content, and the path of ours to read each from."""
        for inode in self.inodes:
            if inode.object_id and not inode.link:
                yield inode, os.path.join(self.top, inode.path)


def scan_tree(
    context: DumpContext,
    kind: str,
    path: str,
    top: str,
    *,
    fs_id: int = 0,
    root: str = "/",
    seen_as: int = 0,
) -> TreeDump:
    """List a tree; nothing below another mount is part of it.

    Args:
        context: Hands out object ids.
        kind: "overlay" or "tmpfs".
        path: Mount point in the container.
        top: The directory as a path of ours.
        fs_id: Of the file system, where the mount point alone does not tell.
        root: Then, which directory of it *top* is.
        seen_as: The st_dev that its files have inside, if that is not the one of *top*.
    """
    device = os.stat(top).st_dev
    tree = Tree(
        tree_id=context.new_id(),
        kind=kind,
        path=path,
        fs_id=fs_id,
        root=root,
        device=seen_as or device,
    )
    dump = TreeDump(tree, top)
    links: dict[tuple[int, int], str] = {}
    pending = ["."]
    while pending:
        relative = pending.pop()
        inode, status = _inode(context, dump, relative, links)
        if inode is None or status.st_dev != device:
            continue
        dump.inodes.append(inode)
        if stat.S_ISDIR(status.st_mode):
            names = sorted(os.listdir(os.path.join(top, relative)), reverse=True)
            pending += [os.path.normpath(os.path.join(relative, name)) for name in names]
    return dump


def _inode(
    context: DumpContext, dump: TreeDump, relative: str, links: dict[tuple[int, int], str]
) -> tuple[Inode | None, os.stat_result]:
    path = os.path.join(dump.top, relative)
    status = os.lstat(path)
    mode = status.st_mode
    key = (status.st_dev, status.st_ino)
    link = links.get(key, "") if not stat.S_ISDIR(mode) and status.st_nlink > 1 else ""
    links.setdefault(key, relative)
    has_content = stat.S_ISREG(mode) and status.st_size > 0 and not link
    inode = Inode(
        tree_id=dump.tree.tree_id,
        path=relative,
        mode=mode,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        atime_ns=status.st_atime_ns,
        size=status.st_size if stat.S_ISREG(mode) else 0,
        object_id=context.new_id() if has_content else 0,
        target=os.readlink(path) if stat.S_ISLNK(mode) else "",
        device=status.st_rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0,
        link=link,
        xattrs=read_xattrs(path),
        number=status.st_ino,
    )
    return inode, status


def write_tree(writer: ImageWriter, dump: TreeDump) -> int:
    """Add the contents of a tree's files; returns the bytes added."""
    total = 0
    for inode, path in dump.contents():
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            total += write_file_pages(writer, inode.object_id, fd, inode.size)
        finally:
            os.close(fd)
    return total


# Restore


class TreeRestore:
    """Puts one tree back.

    Every path is looked up step by step from the top without following links, so an image cannot
    write anywhere else.

    Args:
        top: A descriptor for the directory, which is closed at the end.
        inodes: What to put there, directories before what they hold.
        numbers: Chooses their inode numbers; closed once all are made.

    Attributes:
        renumbered: How many have another inode number than they had.
    """

    def __init__(self, top: int, inodes: list[Inode], numbers: Numbers | None = None) -> None:
        self._top = top
        self._inodes = inodes
        self._numbers = numbers or AnyNumbers()
        self.renumbered = 0
        self._aside: dict[str, str] = {}  # path to the name at the top that it has meanwhile
        self._by_object = {inode.object_id: inode for inode in inodes if inode.object_id}
        self._open: tuple[int, int] | None = None  # the file being filled: object id, descriptor

    def close(self) -> None:
        """Close what is open."""
        self._close_file()
        os.close(self._top)

    @property
    def objects(self) -> frozenset[int]:
        """Content objects that belong to this tree."""
        return frozenset(self._by_object)

    def make(self) -> None:
        """Create every directory, file, link and node, without contents and times."""
        try:
            if self._numbers.ascending:
                self._make_aside()
            for inode in self._inodes:
                self._make_inode(inode)
        finally:
            self._numbers.close()

    def _make_aside(self) -> None:
        """Make every file in the order of the numbers, at the top under a name of its own.

        A directory may be younger than what is in it, so places come later.
        """
        wanted = sorted((inode.number, inode) for inode in self._inodes if not inode.link)
        for number, inode in wanted:
            if not number or inode.path == "." or self._is_there(inode):
                continue
            name = f".wherry.{number}"
            self._numbers.aim(number)
            with _putting_back(inode):
                self._create_new(self._top, name, inode)
                self._numbers.made(os.lstat(name, dir_fd=self._top).st_ino)
            self._aside[inode.path] = name

    def _is_there(self, inode: Inode) -> bool:
        """Whether the sandbox has made this one already, which then stays."""
        try:
            directory, name = self._parent(inode.path)
        except OSError:  # its directory is not there yet
            return False
        try:
            return self._same(directory, name, inode)
        finally:
            os.close(directory)

    def _make_inode(self, inode: Inode) -> None:
        directory, name = self._parent(inode.path)
        try:
            with _putting_back(inode):
                self._make_one(directory, name, inode)
                status = os.lstat(name, dir_fd=directory)
            if inode.number not in (0, status.st_ino):
                self.renumbered += 1
        finally:
            os.close(directory)

    def _parent(self, path: str) -> tuple[int, str]:
        """Open the directory of *path*; returns it and the last name."""
        if path == ".":
            return os.dup(self._top), "."
        *parents, name = path.split("/")
        if name in ("", ".", "..") or any(part in ("", ".", "..") for part in parents):
            raise RestoreError(f"path {path!r} leads out of its tree", reason="image-path")
        fd = os.dup(self._top)
        for part in parents:
            try:
                below = os.open(
                    part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd
                )
            finally:
                os.close(fd)
            fd = below
        return fd, name

    def _make_one(self, directory: int, name: str, inode: Inode) -> None:
        mode = inode.mode
        if name != ".":
            self._create(directory, name, inode)
        if inode.link:
            return
        os.chown(name, inode.uid, inode.gid, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            os.chmod(name, stat.S_IMODE(mode), dir_fd=directory)
        self._set_xattrs(directory, name, inode)

    def _create(self, directory: int, name: str, inode: Inode) -> None:
        aside = self._aside.get(inode.path)
        if aside is not None:
            self._clear(directory, name)
            os.rename(aside, name, src_dir_fd=self._top, dst_dir_fd=directory)
            return
        if not inode.link and self._same(directory, name, inode):
            return
        self._clear(directory, name)
        if inode.link:
            source, source_name = self._parent(inode.link)
            try:
                os.link(
                    source_name,
                    name,
                    src_dir_fd=source,
                    dst_dir_fd=directory,
                    follow_symlinks=False,
                )
            finally:
                os.close(source)
        else:
            if not self._numbers.ascending:
                self._numbers.aim(inode.number)
            self._create_new(directory, name, inode)

    @staticmethod
    def _clear(directory: int, name: str) -> None:
        """Make room for a file; a directory in its place is an error."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)

    @staticmethod
    def _create_new(directory: int, name: str, inode: Inode) -> None:
        mode = inode.mode
        if stat.S_ISDIR(mode):
            os.mkdir(name, 0o700, dir_fd=directory)
        elif stat.S_ISREG(mode):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=directory)
            try:
                os.ftruncate(fd, inode.size)
            finally:
                os.close(fd)
        elif stat.S_ISLNK(mode):
            os.symlink(inode.target, name, dir_fd=directory)
        else:
            os.mknod(name, stat.S_IFMT(mode) | 0o600, inode.device, dir_fd=directory)

    @staticmethod
    def _same(directory: int, name: str, inode: Inode) -> bool:
        """Whether what is there already (the sandbox has made it) is what the image has."""
        try:
            status = os.lstat(name, dir_fd=directory)
        except FileNotFoundError:
            return False
        kind = stat.S_IFMT(inode.mode)
        if stat.S_IFMT(status.st_mode) != kind:
            return False
        if kind == stat.S_IFLNK:
            return os.readlink(name, dir_fd=directory) == inode.target
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            return status.st_rdev == inode.device
        return kind == stat.S_IFDIR

    @staticmethod
    def _set_xattrs(directory: int, name: str, inode: Inode) -> None:
        if not inode.xattrs:
            return
        # The calls that take a directory descriptor are too new; the magic link does the same.
        path = f"/proc/self/fd/{directory}/{name}"
        for key, value in inode.xattrs:
            os.setxattr(path, key, value, follow_symlinks=False)

    def fill(self, chunk: Chunk) -> None:
        """Write one chunk into its file; chunks of a file come one after the other."""
        if self._open is None or self._open[0] != chunk.object_id:
            self._close_file()
            inode = self._by_object[chunk.object_id]
            directory, name = self._parent(inode.path)
            try:
                flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                self._open = (chunk.object_id, os.open(name, flags, dir_fd=directory))
            finally:
                os.close(directory)
        write_runs(self._open[1], chunk, memoryview(chunk.unpack()))

    def _close_file(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def finish(self) -> None:
        """Set the times, children before their directories."""
        self._close_file()
        for inode in reversed(self._inodes):
            directory, name = self._parent(inode.path)
            try:
                os.utime(
                    name,
                    ns=(inode.atime_ns, inode.mtime_ns),
                    dir_fd=directory,
                    follow_symlinks=False,
                )
            finally:
                os.close(directory)


@contextlib.contextmanager
def _putting_back(inode: Inode) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise RestoreError(
            f"{inode.path}: {os.strerror(exc.errno or 0)} when it was put back"
        ) from exc


def write_runs(fd: int, chunk: Chunk, data: memoryview) -> None:
    """Write a chunk's runs at their offsets into an open file."""
    done = 0
    for start, length in chunk.runs:
        write_at(fd, data[done : done + length], start)
        done += length


def write_at(fd: int, data: memoryview, at: int) -> None:
    """Write all of *data* at an offset of an open file."""
    while data:
        written = os.pwrite(fd, data, at)
        data, at = data[written:], at + written
