"""Copy a directory's content into a fresh tmpfs (the mount option ``tmpcopyup``)."""

from __future__ import annotations

import os
import stat

_BLOCK = 1 << 20


def copy_tree(source: int, target: int) -> None:
    """Copy everything below the directory *source* into the empty directory *target*.

    Modes, owners, times, links and special files are kept; hard links become copies, as they may
    cross what is copied. Nothing follows a symbolic link.

    Args:
        source: A readable directory descriptor.
        target: A directory descriptor of another file system.

    Raises:
        OSError: For instance ENOSPC when the tmpfs is too small.
    """
    with os.scandir(source) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        _copy_entry(source, target, name)


def _copy_entry(source: int, target: int, name: str) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISDIR(status.st_mode):
        os.mkdir(name, mode, dir_fd=target)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=source)
        try:
            into = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=target)
            try:
                copy_tree(below, into)
            finally:
                os.close(into)
        finally:
            os.close(below)
    elif stat.S_ISREG(status.st_mode):
        _copy_file(source, target, name)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        # chown has cleared set-user-id bits
        os.chmod(name, mode, dir_fd=target)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, target: int, name: str) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        writer = os.open(name, flags, 0o600, dir_fd=target)
        try:
            while data := os.read(reader, _BLOCK):
                while data:
                    data = data[os.write(writer, data) :]
        finally:
            os.close(writer)
    finally:
        os.close(reader)
