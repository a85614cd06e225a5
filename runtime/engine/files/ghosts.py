"""Ghosts: files of any type that have lost the name they were opened by.

A removed file lives on for those who have it open, are in it, or map it. A restore gives it its old
name for a moment, takes a descriptor of it, and removes the name again, so that what the kernel
says of its path is as before. Directories that are gone themselves come back for that moment. A
file that has other names is found by one of them, and is linked instead of made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from formats.records.files import DeletedFile
from runtime.engine.files.mounts import open_inside
from runtime.engine.xattrs import read_xattrs
from runtime.errors import RestoreError

if TYPE_CHECKING:
    from formats.statefile import Chunk

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
O_TMPFILE = 0o20000000 | os.O_DIRECTORY  # include/uapi/asm-generic/fcntl.h


def describe_deleted(
    object_id: int, path: str, magic: str, status: os.stat_result, other_name: str
) -> DeletedFile:
    """Make the record of a file that lost its name.

    Args:
        object_id: Its number.
        path: The name it lost.
        magic: A link of /proc that leads to it.
        status: stat(2) of it.
        other_name: A path that it still has, or empty.
    """
    mode = status.st_mode
    return DeletedFile(
        object_id=object_id,
        path=path,
        size=status.st_size if stat.S_ISREG(mode) else 0,
        mode=mode,
        uid=status.st_uid,
        gid=status.st_gid,
        atime_ns=status.st_atime_ns,
        mtime_ns=status.st_mtime_ns,
        device=status.st_rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0,
        target=_target(magic) if stat.S_ISLNK(mode) else "",
        # A link of /proc cannot be left unfollowed and then be followed once.
        xattrs=() if stat.S_ISLNK(mode) else read_xattrs(magic, follow_symlinks=True),
        other_name=other_name,
    )


def _target(magic: str) -> str:
    fd = os.open(magic, os.O_PATH | os.O_CLOEXEC)
    try:
        return os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)


# Restore


@dataclass(slots=True)
class Handles:
    """Descriptors of ours for the files that were made again, by object id.

    Attributes:
        paths: Opened with ``O_PATH``.
        unnamed: What open(2) gave for a file that never had a name, while nobody has it yet.
    """

    paths: dict[int, int] = field(default_factory=dict)
    unnamed: dict[int, int] = field(default_factory=dict)

    def open(self, object_id: int, flags: int) -> int:
        """A description of its own of one of the files."""
        if object_id not in self.paths:
            raise RestoreError(
                f"the image names the removed file {object_id}, which it does not hold",
                reason="image-inconsistent",
            )
        if flags & O_TMPFILE == O_TMPFILE:
            if object_id in self.unnamed:
                return self.unnamed.pop(object_id)
            flags &= ~O_TMPFILE
        path = f"/proc/self/fd/{self.paths[object_id]}"  # a link, which O_NOFOLLOW would refuse
        return os.open(path, flags & ~os.O_NOFOLLOW | os.O_CLOEXEC)

    def close(self) -> None:
        """Close all that were not given away."""
        for fd in (*self.paths.values(), *self.unnamed.values()):
            os.close(fd)
        self.paths.clear()
        self.unnamed.clear()


def make_ghosts(
    top: int, ghosts: Sequence[DeletedFile], made: Handles, undo: contextlib.ExitStack
) -> None:
    """Make every file, with its name for the moment.

    Args:
        top: A descriptor of the container's root, or of the top of what the files' ``inner``
            starts at.
        ghosts: What to make.
        made: Receives the descriptors, also before a failure.
        undo: Takes the names away again when it closes.

    Raises:
        RestoreError: The kernel refused, or a path leads nowhere.
    """
    # What is made last goes first: a directory after its files.
    placed: dict[str, int] = {}
    for ghost in sorted(ghosts, key=lambda ghost: _name(ghost).count("/")):
        try:
            handle = _make(top, ghost, placed, made, undo)
        except OSError as exc:
            raise RestoreError(
                f"{ghost.path}: {os.strerror(exc.errno or 0)} when the removed file was made again",
                reason="file-missing",
            ) from exc
        made.paths[ghost.object_id] = handle
        if stat.S_ISDIR(ghost.mode):
            placed[_name(ghost)] = handle


def _make(
    top: int,
    ghost: DeletedFile,
    placed: dict[str, int],
    made: Handles,
    undo: contextlib.ExitStack,
) -> int:
    *parents, name = _parts(_name(ghost))
    directory = _parent(top, parents, placed, undo)
    _keep_times(directory, undo)
    if ghost.other_name:
        return _link(top, ghost, directory, name, undo)
    if ghost.unnamed_flags and stat.S_ISREG(ghost.mode) and _make_unnamed(directory, ghost, made):
        fd = made.unnamed[ghost.object_id]
        return os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
    try:
        _create(directory, name, ghost)
    except FileExistsError:
        name = f".wherry-{os.getpid()}-{ghost.object_id}"
        _create(directory, name, ghost)
    remove = os.rmdir if stat.S_ISDIR(ghost.mode) else os.unlink
    undo.callback(remove, name, dir_fd=directory)
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def _name(ghost: DeletedFile) -> str:
    return f"/{ghost.inner}" if ghost.inner else ghost.path


def _parts(path: str) -> list[str]:
    first, *parts = path.split("/")
    if first or any(part in ("", ".", "..") for part in parts):
        raise RestoreError(f"removed file {path!r} has no place", reason="image-path")
    return parts


def _parent(
    top: int, parents: list[str], placed: dict[str, int], undo: contextlib.ExitStack
) -> int:
    """Open the directory that held a file; what is missing of the way is made for the moment."""
    fd = _held(os.dup(top), undo)
    path = ""
    for part in parents:
        path = f"{path}/{part}"
        if path in placed:
            fd = placed[path]
            continue
        try:
            below = os.open(part, _DIRECTORY, dir_fd=fd)
        except FileNotFoundError:
            _keep_times(fd, undo)
            os.mkdir(part, 0o700, dir_fd=fd)
            undo.callback(os.rmdir, part, dir_fd=fd)
            below = os.open(part, _DIRECTORY, dir_fd=fd)
        except NotADirectoryError:
            return fd  # something else has its name now
        fd = _held(below, undo)
    return fd


def _held(fd: int, undo: contextlib.ExitStack) -> int:
    undo.callback(os.close, fd)
    return fd


def _keep_times(directory: int, undo: contextlib.ExitStack) -> None:
    path = f"/proc/self/fd/{directory}"
    status = os.stat(path)
    undo.callback(os.utime, path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _link(
    top: int, ghost: DeletedFile, directory: int, name: str, undo: contextlib.ExitStack
) -> int:
    """The file by its other name, as if it had been opened by the lost one."""
    above, other = os.path.split(ghost.other_name)
    source = _held(
        open_inside(f"/proc/self/fd/{top}", above or ".", os.O_PATH | os.O_DIRECTORY), undo
    )
    handle = os.open(other, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    for candidate in (name, f".wherry-{os.getpid()}-{ghost.object_id}"):
        try:
            os.link(
                other, candidate, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False
            )
        except FileExistsError:
            continue
        except OSError as exc:
            if exc.errno in (errno.EXDEV, errno.EMLINK):
                return handle  # the name is on another mount: the path will read otherwise
            os.close(handle)
            raise
        undo.callback(os.unlink, candidate, dir_fd=directory)
        os.close(handle)
        return os.open(candidate, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    return handle


def _make_unnamed(directory: int, ghost: DeletedFile, made: Handles) -> bool:
    """Make a file that never had a name; False where the file system has no such files."""
    flags = ghost.unnamed_flags | O_TMPFILE | os.O_CLOEXEC
    try:
        fd = os.open(f"/proc/self/fd/{directory}", flags, 0o600)
    except OSError as exc:
        if exc.errno in (errno.EOPNOTSUPP, errno.EISDIR):
            return False
        raise
    made.unnamed[ghost.object_id] = fd
    os.ftruncate(fd, ghost.size)
    return True


def _create(directory: int, name: str, ghost: DeletedFile) -> None:
    mode = ghost.mode
    if stat.S_ISDIR(mode):
        os.mkdir(name, 0o700, dir_fd=directory)
    elif stat.S_ISLNK(mode):
        os.symlink(ghost.target, name, dir_fd=directory)
        os.chown(name, ghost.uid, ghost.gid, dir_fd=directory, follow_symlinks=False)
    elif stat.S_ISREG(mode):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            os.ftruncate(fd, ghost.size)
        finally:
            os.close(fd)
    else:
        os.mknod(name, stat.S_IFMT(mode) | 0o600, ghost.device, dir_fd=directory)


def fill_ghost(handle: int, chunk: Chunk) -> None:
    """Write one chunk of a removed file's content."""
    from runtime.engine.trees import write_runs

    fd = os.open(f"/proc/self/fd/{handle}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        write_runs(fd, chunk, memoryview(chunk.unpack()))
    finally:
        os.close(fd)


def finish_ghost(handle: int, ghost: DeletedFile) -> None:
    """Owner, permissions, attributes and times, when the content is there."""
    if ghost.other_name or stat.S_ISLNK(ghost.mode):
        return
    path = f"/proc/self/fd/{handle}"
    os.chown(path, ghost.uid, ghost.gid)
    os.chmod(path, stat.S_IMODE(ghost.mode))
    for key, value in ghost.xattrs:
        os.setxattr(path, key, value)
    os.utime(path, ns=(ghost.atime_ns, ghost.mtime_ns))
