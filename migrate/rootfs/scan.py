"""Looking at a tree of files: what is there, and what has changed since the last look.

The program may be changing the tree meanwhile, and may be hostile: every directory is opened below
the tree's top with links refused, every file without following one. Other file systems that are
mounted in the tree are not a part of it.

A file is read again when its inode, size or ``st_ctime`` differs from the last look, when that
look was so soon after a change that another one could have got the same time, or when it was
mapped writable at that time: stores into a mapping may leave no trace in the times.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from migrate.errors import MigrateError
from migrate.rootfs.content import Pieces, digest_of_pieces, pieces_of
from migrate.rootfs.entries import MAX_ENTRIES, MAX_XATTRS, NO_PARENT, Entry
from runtime.kernel.openat2 import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)

WITHIN = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
CLOCK_TICK_NS = 50_000_000
"""File times may lag behind by a tick of the kernel's clock, 10 ms at most; with room to spare."""
Inode = tuple[int, int]  # st_dev, st_ino


@dataclass(frozen=True, slots=True)
class Look:
    """What a file was when it was read.

    Attributes:
        inode: Which one.
        ctime_ns: ``st_ctime``.
        size: ``st_size``.
        at_ns: CLOCK_REALTIME before it was read.
    """

    inode: Inode
    ctime_ns: int
    size: int
    at_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Look:
        """The look that begins now."""
        inode = (status.st_dev, status.st_ino)
        return cls(inode, status.st_ctime_ns, status.st_size, time.time_ns())

    def still_holds(self, status: os.stat_result, mapped: Collection[Inode]) -> bool:
        """Whether what was read then must be what is there now."""
        return (
            self.inode == (status.st_dev, status.st_ino)
            and self.ctime_ns == status.st_ctime_ns
            and self.size == status.st_size
            and self.ctime_ns + CLOCK_TICK_NS < self.at_ns
            and self.inode not in mapped
        )


@dataclass(slots=True)
class Tree:
    """What was found.

    Attributes:
        top: Its directory.
        entries: By number; a directory has a smaller number than what is in it.
        numbers: Entry numbers by path, relative to the top, which is the empty path.
        looks: By number.
        pieces: By number, of the regular files.
        next_number: For the next new file.
    """

    top: Path
    entries: dict[int, Entry] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    looks: dict[int, Look] = field(default_factory=dict)
    pieces: dict[int, Pieces] = field(default_factory=dict)
    next_number: int = 0

    @property
    def content_bytes(self) -> int:
        """Bytes of all regular files that are not zeros, about."""
        return sum(
            min(e.size, len(self.pieces[n]) << 16) for n, e in self.entries.items() if e.is_file
        )


def scan(
    top: Path,
    before: Tree | None = None,
    mapped: Collection[Inode] = (),
    *,
    only_sizes: Collection[int] | None = None,
    tick: Callable[[], object] = lambda: None,
) -> Tree:
    """Look at a tree.

    Args:
        top: Its directory.
        before: The last look; what has not changed since keeps its number and is not read.
        mapped: Files that may have changed without a trace.
        only_sizes: Read only files of these sizes; the others have no digest.
        tick: Called again and again.

    Raises:
        MigrateError: It is too large, or cannot be read.
    """
    tree = Tree(top, next_number=0 if before is None else before.next_number)
    with _opened(top) as root:
        _Scan(tree, root, before, mapped, only_sizes).run(tick)
    return tree


def mapped_files(pids: Collection[int]) -> set[Inode]:
    """The files that processes have mapped so that they can write to them.

    Source: man 5 proc_pid_maps.
    """
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
                _, access, _, device, inode, *_ = line.split(None, 5)
                if access[1] == "w" and access[3] == "s" and inode != "0":
                    major, minor = (int(part, 16) for part in device.split(":"))
                    found.add((os.makedev(major, minor), int(inode)))
    return found


@contextlib.contextmanager
def _opened(top: Path) -> Iterator[int]:
    try:
        fd = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise MigrateError(f"{top}: {exc.strerror}", reason="no-rootfs") from exc
    try:
        yield fd
    finally:
        os.close(fd)


class _Scan:
    def __init__(
        self,
        tree: Tree,
        root: int,
        before: Tree | None,
        mapped: Collection[Inode],
        only_sizes: Collection[int] | None,
    ) -> None:
        self._only_sizes = only_sizes
        self._tree = tree
        self._root = root
        self._before = before
        self._mapped = mapped
        self._firsts: dict[Inode, int] = {}  # files with several links

    def run(self, tick: Callable[[], object]) -> None:
        device = os.fstat(self._root).st_dev
        waiting = [""]
        while waiting:
            path = waiting.pop()
            tick()
            try:
                fd = openat2(self._root, path or ".", os.O_RDONLY | os.O_DIRECTORY, resolve=WITHIN)
            except (FileNotFoundError, NotADirectoryError):
                self._forget(path)
                continue  # removed while we looked
            except OSError as exc:
                raise self._failure(path, exc) from exc
            try:
                if not path:
                    self._add("", NO_PARENT, "", os.fstat(fd), fd)
                inside = self._in_directory(path, fd, device)
            finally:
                os.close(fd)
            waiting += reversed(inside)

    def _in_directory(self, path: str, fd: int, device: int) -> list[str]:
        """Add what is in a directory; returns the directories among it that are to be entered."""
        parent = self._tree.numbers[path]
        found = []
        for name in sorted(os.listdir(fd)):
            full = f"{path}/{name}" if path else name
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                self._add(full, parent, name, status, fd)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise self._failure(full, exc) from exc
            if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                found.append(full)
        return found

    def _add(self, path: str, parent: int, name: str, status: os.stat_result, fd: int) -> None:
        tree = self._tree
        number, old = self._number(path, status)
        inode = (status.st_dev, status.st_ino)
        link = -1
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            first = self._firsts.setdefault(inode, number)
            link = -1 if first == number else first
        look = self._before.looks[number] if self._before is not None and old is not None else None
        if old is not None and look is not None and look.still_holds(status, self._mapped):
            entry = _moved(old, parent, link)
            if entry.is_file == old.is_file:
                assert self._before is not None
                self._keep(path, entry, look)
                if entry.is_file:
                    tree.pieces[number] = self._before.pieces[number]
                return
        entry, look = self._read(number, parent, name, status, fd, link)
        self._keep(path, entry, look)

    def _keep(self, path: str, entry: Entry, look: Look) -> None:
        tree = self._tree
        if len(tree.entries) >= MAX_ENTRIES:
            raise MigrateError(f"{tree.top}: more than {MAX_ENTRIES} files", reason="rootfs-size")
        tree.entries[entry.number] = entry
        tree.numbers[path] = entry.number
        tree.looks[entry.number] = look

    def _number(self, path: str, status: os.stat_result) -> tuple[int, Entry | None]:
        """The number of a path: the old one if a file of the same type was there before."""
        if self._before is not None:
            number = self._before.numbers.get(path)
            if number is not None:
                old = self._before.entries[number]
                if old.kind == stat.S_IFMT(status.st_mode):
                    return number, old
        self._tree.next_number += 1
        return self._tree.next_number - 1, None

    def _read(
        self, number: int, parent: int, name: str, status: os.stat_result, fd: int, link: int
    ) -> tuple[Entry, Look]:
        size, digest, target, device = 0, b"", "", (0, 0)
        place = f"/proc/self/fd/{fd}/{name}"
        if stat.S_ISREG(status.st_mode) and link < 0:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(name, flags, dir_fd=fd)
            try:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    raise FileNotFoundError
                look = Look.of(status)
                size = status.st_size
                if self._only_sizes is None or size in self._only_sizes:
                    self._tree.pieces[number] = pieces = pieces_of(file, size)
                    digest = digest_of_pieces(pieces)
            finally:
                os.close(file)
        else:
            look = Look.of(status)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=fd)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        entry = Entry(
            *(number, parent, name, status.st_mode, status.st_uid, status.st_gid),
            *(status.st_atime_ns, status.st_mtime_ns, size, device, target),
            xattrs_of(place),
            link,
            digest,
        )
        return entry, look

    def _forget(self, path: str) -> None:
        number = self._tree.numbers.pop(path, None)
        if number is not None:
            del self._tree.entries[number], self._tree.looks[number]

    def _failure(self, path: str, exc: OSError) -> MigrateError:
        return MigrateError(
            f"{self._tree.top}/{path}: cannot be read: {exc.strerror}", reason="rootfs-unreadable"
        )


def xattrs_of(place: str) -> tuple[tuple[str, bytes], ...]:
    """All extended attributes of a file, not of what it links to, in order of their names."""
    try:
        names = os.listxattr(place, follow_symlinks=False)
        pairs = [(name, os.getxattr(place, name, follow_symlinks=False)) for name in names]
    except OSError as exc:
        if exc.errno in (errno.ENOTSUP, errno.ENODATA):
            return ()
        raise
    if len(pairs) > MAX_XATTRS:
        raise MigrateError(f"{place}: {len(pairs)} extended attributes", reason="rootfs-xattrs")
    return tuple(sorted(pairs))


def _moved(entry: Entry, parent: int, link: int) -> Entry:
    if entry.parent == parent and entry.link == link:
        return entry
    return replace(entry, parent=parent, link=link)
