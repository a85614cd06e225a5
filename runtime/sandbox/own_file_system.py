"""A file system of a container's own, for what it changes.

A restored program must find its files under the inode numbers that they had, or SQLite takes its
database for another one and tail(1) its log for rotated. On a file system that others use, too,
numbers cannot be chosen. So the overlay's own directories lie on an ext4 that nobody else uses, in
a sparse file of the container's directory, behind a loop device that the kernel detaches with the
last mount.

Without a journal, for it never outlives a crash of the host: the container does not either. Freed
blocks are discarded, and so the file shrinks again.

What is made here needs no record. The mount is found by its place below the container's directory
(``runtime.destruction``), with it goes the loop device, and the file goes with the directory.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path

from runtime.kernel.ext4 import find_mkfs, hash_seed, set_hash_seed, shut_down
from runtime.kernel.loop import attach_loop, backing_file
from runtime.kernel.mount import (
    fsconfig_create,
    fsconfig_flag,
    fsconfig_string,
    fsmount,
    fsopen,
    move_mount,
)

log = logging.getLogger(__name__)

# Inode numbers of one file system must be possible in another one: block size, inode size and
# inodes per group are the same everywhere, only the count of groups is not. The list of features
# begins with "none", so that no version of mke2fs and no mke2fs.conf adds any; without flex_bg,
# which the allocator would search for a long time when it makes the first file.
_MKFS = (
    "-q", "-F", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0", "-e", "continue",
    "-O", "none,dir_index,dir_nlink,extent,extra_isize,filetype,huge_file,large_file,sparse_super2,"
    "uninit_bg",
    "-E", "lazy_itable_init=1,num_backup_sb=0,nodiscard",
)  # fmt: skip
_MIN_BYTES, _MAX_BYTES = 64 << 30, 8 << 40
_IMAGE = "overlay.ext4"


class OwnFileSystem:
    """A file system of a container's own, from the moment on in which it is being made.

    mkfs works meanwhile, a few milliseconds.

    Args:
        directory: Where it goes: an empty directory of the container's directory, made when it is
            missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._image = _image_of(directory)
        self._fd = self._mkfs = -1
        directory.mkdir(mode=0o700, exist_ok=True)
        try:
            self._start()
        except OSError as exc:
            self._do_without(exc)

    def _start(self) -> None:
        program = find_mkfs()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(self._image, flags, 0o600)
        os.ftruncate(self._fd, _size(self._directory))
        # By its descriptor, for a directory that somebody deletes may come again with another one.
        inherited, null = 3, os.devnull
        self._mkfs = os.posix_spawn(
            program,
            ["mkfs.ext4", *_MKFS, f"/proc/self/fd/{inherited}"],
            {"PATH": os.defpath},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
                (os.POSIX_SPAWN_DUP2, self._fd, inherited),
            ],
        )

    def mount(self, seed: str = "") -> str:
        """Mount it, if this host can.

        Args:
            seed: The hash seed of the one whose place it takes, for positions in its directories.

        Returns:
            The hash seed of the file system, or an empty string where the host lacks something:
            then everything goes into the directory as it is, and inode numbers do not stay.
        """
        if self._fd < 0:
            return ""
        try:
            return self._finish(seed)
        except OSError as exc:
            self._do_without(exc)
            return ""
        finally:
            self._close()

    def _finish(self, seed: str) -> str:
        _, status = os.waitpid(self._mkfs, 0)
        if status:
            code = os.waitstatus_to_exitcode(status)
            raise OSError(errno.EIO, f"mkfs.ext4 has failed with {code}")
        if seed:
            set_hash_seed(self._fd, seed)
        device, held = attach_loop(self._fd)
        try:
            _mount(device, self._directory)
        finally:
            os.close(held)
        return hash_seed(self._fd)

    def _do_without(self, exc: OSError) -> None:
        why = exc.strerror or exc
        log.info("%s: inode numbers will not survive a restore: %s", self._directory, why)
        self._close()
        self._image.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_mounted(directory: Path) -> bool:
    """Whether *directory* has a file system of its own on it, in our mount namespace."""
    with suppress(FileNotFoundError):
        return backing_file(directory.stat().st_dev) == str(_image_of(directory).resolve())
    return False


def give_up(directory: Path) -> None:
    """Forget what is not yet written back, before the file system on *directory* is unmounted.

    Nothing happens when there is none.
    """
    if is_mounted(directory):
        with suppress(OSError):
            shut_down(directory)


def _image_of(directory: Path) -> Path:
    return directory.parent / _IMAGE


def _size(directory: Path) -> int:
    """What is free on the host, so that this is no limit of its own; a power of two.

    Not the size of the host's disk: mkfs and each mount take time for every 128 MiB.
    """
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    return min(max(1 << free.bit_length(), _MIN_BYTES), _MAX_BYTES)


def _mount(device: str, directory: Path) -> None:
    context = fsopen("ext4")
    try:
        fsconfig_string(context, "source", device)
        # Inode tables are zero already: the file is sparse
        fsconfig_flag(context, "noinit_itable")
        fsconfig_flag(context, "discard")
        fsconfig_create(context)
        fd = fsmount(context)
    finally:
        os.close(context)
    try:
        target = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            move_mount(fd, target)
        finally:
            os.close(target)
    finally:
        os.close(fd)
