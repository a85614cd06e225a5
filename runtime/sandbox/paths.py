"""Walk and create paths inside a root file system that we must not trust.

Every path starts at a descriptor of the root, and symbolic links and ``..`` stay inside it
(``RESOLVE_IN_ROOT``). Links of /proc that jump elsewhere are refused.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from contextlib import suppress

from runtime.kernel.openat2 import openat2

_MAX_LINKS = 40  # as the kernel's own limit


def open_inside(root_fd: int, path: str, flags: int = os.O_PATH, mode: int = 0) -> int:
    """Open an existing *path* of the root.

    Raises:
        OSError: As openat2(2); ELOOP for a link of /proc that jumps.
    """
    # A relative path, so that nothing depends on how the kernel sees the leading slash
    return openat2(root_fd, path.lstrip("/") or ".", flags, mode=mode)


def exists_inside(root_fd: int, path: str) -> bool:
    """Whether *path* exists in the root."""
    try:
        os.close(open_inside(root_fd, path))
    except FileNotFoundError:
        return False
    return True


def make_directories(root_fd: int, path: str, mode: int = 0o755) -> int:
    """Create the directory *path* with all its parents; return an ``O_PATH`` descriptor of it.

    A dangling symbolic link on the way has its target created, inside the root, as a person
    working in a chroot would expect of ``mkdir -p``.

    Raises:
        NotADirectoryError: A file is in the way.
        OSError: As mkdirat(2) and openat2(2).
    """
    return _make_directories(root_fd, path, mode, _MAX_LINKS)


def _make_directories(root_fd: int, path: str, mode: int, links: int) -> int:
    try:
        return open_inside(root_fd, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    parent, name = posixpath.split(posixpath.normpath("/" + path))
    parent_fd = _make_directories(root_fd, parent, mode, links)
    try:
        try:
            os.mkdir(name, mode, dir_fd=parent_fd)
        except FileExistsError:
            # Somebody was faster, or a dangling link: readlink tells which
            target = _link_target(parent_fd, name)
            if target is not None:
                if links == 0:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
                return _make_directories(root_fd, posixpath.join(parent, target), mode, links - 1)
        return open_inside(root_fd, path, os.O_PATH | os.O_DIRECTORY)
    finally:
        os.close(parent_fd)


def _link_target(dir_fd: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=dir_fd)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            return None
        raise


def make_file(root_fd: int, path: str, mode: int = 0o644) -> int:
    """Create an empty file *path* unless something is there; return an ``O_PATH`` descriptor."""
    try:
        return open_inside(root_fd, path)
    except FileNotFoundError:
        pass
    parent, name = posixpath.split(posixpath.normpath("/" + path))
    parent_fd = make_directories(root_fd, parent)
    try:
        with suppress(FileExistsError):
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode, dir_fd=parent_fd)
            os.close(fd)
    finally:
        os.close(parent_fd)
    return open_inside(root_fd, path)


def make_mount_point(root_fd: int, path: str, *, directory: bool) -> int:
    """What a mount goes on, created when it is missing.

    Args:
        root_fd: The root.
        path: Destination inside it.
        directory: Whether the mount's source is a directory.

    Returns:
        An ``O_PATH`` descriptor.

    Raises:
        NotADirectoryError, IsADirectoryError: Something of the other kind is there.
        OSError: It could not be made.
    """
    fd = make_directories(root_fd, path) if directory else make_file(root_fd, path)
    if not directory and stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return fd


def read_inside(root_fd: int, path: str, limit: int) -> bytes:
    """The first *limit* bytes of a regular file of the root; nothing when it is not one."""
    # O_NONBLOCK: a FIFO in its place must not block us
    try:
        fd = open_inside(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        return os.read(fd, limit) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
