"""Where a tree of files is made: nothing of it can get out, whatever its list of files says.

Every directory is opened from the top with links refused (openat2, RESOLVE_BENEATH and
RESOLVE_NO_SYMLINKS), every file by one name in its directory. What a file is to be (owner, mode,
attributes, times) is set through a descriptor of that very inode.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from types import TracebackType

from migrate.errors import MigrateError
from migrate.rootfs.entries import Entry
from migrate.rootfs.scan import WITHIN
from runtime.kernel.openat2 import RESOLVE_BENEATH, openat2
from runtime.kernel.syncfs import syncfs

_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_OLD_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK


class Place:
    """The top directory of a tree; a context manager.

    Args:
        top: It exists.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self._root = -1
        self._parent = ("", -1)  # the directory that was used last

    def __enter__(self) -> Place:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._root = os.open(self.top, flags)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._leave()
        os.close(self._root)

    def _leave(self) -> None:
        if self._parent[1] >= 0:
            os.close(self._parent[1])
        self._parent = ("", -1)

    def _in(self, path: str) -> tuple[int, str]:
        """The directory of a path as a descriptor, and the name in it."""
        parent, _, name = path.rpartition("/")
        if self._parent[1] < 0 or self._parent[0] != parent:
            self._leave()
            flags = os.O_PATH | os.O_DIRECTORY
            self._parent = (parent, openat2(self._root, parent or ".", flags, resolve=WITHIN))
        return self._parent[1], name or "."

    # Making and removing

    def make(self, path: str, entry: Entry) -> None:
        """Make a file that is no regular one, empty and for nobody yet."""
        fd, name = self._in(path)
        if stat.S_ISDIR(entry.mode):
            os.mkdir(name, 0o700, dir_fd=fd)
        elif stat.S_ISLNK(entry.mode):
            os.symlink(entry.target, name, dir_fd=fd)
        else:
            device = os.makedev(*entry.device)
            os.mknod(name, entry.kind | 0o600, device, dir_fd=fd)

    def link(self, path: str, first: str) -> None:
        """Make a hard link to a file of this place."""
        source, source_name = self._in(first)
        held = os.dup(source)
        try:
            fd, name = self._in(path)
            os.link(source_name, name, src_dir_fd=held, dst_dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(held)

    def create(self, path: str) -> int:
        """Make a regular file; returns its descriptor, open for reading and writing."""
        fd, name = self._in(path)
        return openat2(fd, name, _NEW_FILE, mode=0o600, resolve=WITHIN)

    def open(self, path: str) -> int:
        """Open a regular file, for reading and writing.

        Raises:
            MigrateError: It is another kind of file.
        """
        fd, name = self._in(path)
        file = openat2(fd, name, _OLD_FILE, resolve=WITHIN)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise MigrateError(f"{self.top}/{path} is no file any more", reason="rootfs-changed")
        return file

    def remove(self, path: str) -> None:
        """Remove a file, or a directory with all that is in it."""
        waiting = [path]
        while waiting:
            current = waiting[-1]
            fd, name = self._in(current)
            try:
                os.unlink(name, dir_fd=fd)
            except FileNotFoundError:
                pass
            except (IsADirectoryError, PermissionError):
                try:
                    os.rmdir(name, dir_fd=fd)
                except OSError as exc:
                    if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    waiting += [f"{current}/{inner}" for inner in self._names(current)]
                    continue
            waiting.pop()
        self._leave()  # it may have been the directory used last

    def _names(self, path: str) -> list[str]:
        fd = openat2(self._root, path, os.O_RDONLY | os.O_DIRECTORY, resolve=WITHIN)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def sync(self) -> None:
        """Have all of the file system on the disk."""
        fd = openat2(self._root, ".", os.O_RDONLY | os.O_DIRECTORY, resolve=WITHIN)
        try:
            syncfs(fd)
        finally:
            os.close(fd)

    # What files are

    def adorn(self, path: str, entry: Entry) -> None:
        """Give a file its owner, extended attributes, mode and times."""
        fd, name = self._in(path)
        node = openat2(fd, name, os.O_PATH | os.O_NOFOLLOW, resolve=RESOLVE_BENEATH)
        try:
            status = os.fstat(node)
            if stat.S_IFMT(status.st_mode) != entry.kind:
                raise MigrateError(
                    f"{self.top}/{path} is another kind of file by now", reason="rootfs-changed"
                )
            # The link of /proc leads to the inode itself, be it a symbolic link.
            self._adorn(f"/proc/self/fd/{node}", f"/proc/self/fd/{fd}/{name}", entry, status)
        except OSError as exc:
            raise MigrateError(
                f"{self.top}/{path}: its attributes cannot be set: {exc.strerror}",
                reason="rootfs-attributes",
            ) from exc
        finally:
            os.close(node)

    def _adorn(self, node: str, place: str, entry: Entry, status: os.stat_result) -> None:
        symbolic = stat.S_ISLNK(entry.mode)
        if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            os.chown(node, entry.uid, entry.gid)
        target = place if symbolic else node
        self._set_xattrs(target, dict(entry.xattrs), follow=not symbolic)
        # After the owner, whose change clears set-user-ID, and after ACLs, which have a part of it.
        if not symbolic:
            os.chmod(node, stat.S_IMODE(entry.mode))
        os.utime(node, ns=(entry.atime_ns, entry.mtime_ns))

    def _set_xattrs(self, target: str, wanted: dict[str, bytes], *, follow: bool) -> None:
        try:
            there = os.listxattr(target, follow_symlinks=follow)
        except OSError as exc:
            if exc.errno != errno.ENOTSUP or wanted:
                raise
            return
        for name in set(there) - set(wanted):
            with contextlib.suppress(OSError):  # what the file system itself puts there
                os.removexattr(target, name, follow_symlinks=follow)
        for name, value in wanted.items():
            os.setxattr(target, name, value, follow_symlinks=follow)
