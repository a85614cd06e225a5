"""ext4: the program that makes one, the number of the next inode, an end without writing back."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

# include/uapi/linux/ext4.h
EXT4_IOC_SHUTDOWN = 0x8004587D
EXT4_GOING_FLAGS_NOLOGFLUSH = 2

# fs/ext4/ext4.h: the superblock begins at byte 1024, s_hash_seed is at 0xEC of it.
_HASH_SEED_AT, _HASH_SEED_BYTES = 1024 + 0xEC, 16

_SYSFS = Path("/sys/fs/ext4")
_MKFS = ("/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4")


def find_mkfs() -> str:
    """The path of mkfs.ext4.

    Raises:
        FileNotFoundError: It is not installed, or the kernel has no ext4 that sysfs shows.
    """
    program = next((path for path in _MKFS if os.access(path, os.X_OK)), None)
    if program is None or not _SYSFS.is_dir():
        what = "mkfs.ext4 is not installed" if program is None else "no ext4 in /sys"
        raise FileNotFoundError(errno.ENOENT, what)
    return program


def hash_seed(fd: int) -> str:
    """What decides the order of names in directories, as 32 hexadecimal digits.

    A position in a directory, telldir(3), is the hash of a name.

    Args:
        fd: What the file system lies on.
    """
    return os.pread(fd, _HASH_SEED_BYTES, _HASH_SEED_AT).hex()


def set_hash_seed(fd: int, seed: str) -> None:
    """Let a new file system, without metadata checksums and not yet mounted, have this seed.

    Args:
        fd: What it lies on.
        seed: As ``hash_seed`` returns it.

    Raises:
        ValueError: It is no seed.
    """
    raw = bytes.fromhex(seed)
    if len(raw) != _HASH_SEED_BYTES:
        raise ValueError(f"{seed!r} is no hash seed")
    os.pwrite(fd, raw, _HASH_SEED_AT)


def goal_file(device: int) -> Path:
    """The file that takes the number of the inode to make next; 0 leaves it to the kernel.

    It holds for the whole file system, for every file made until it is changed. A number that is in
    use gives the next free one behind it.

    Args:
        device: The st_dev of a file in the file system.

    Raises:
        OSError: It is no ext4.

    Source: Documentation/ABI/testing/sysfs-fs-ext4, inode_goal.
    """
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    return _SYSFS / block.resolve(strict=True).name / "inode_goal"


def shut_down(path: Path) -> None:
    """End a file system at once: what is not yet on its device is lost, and every call fails.

    Args:
        path: Its top or any file of it.

    Raises:
        OSError: ENOTTY when it is no ext4.

    Source: EXT4_IOC_SHUTDOWN, include/uapi/linux/ext4.h (Linux 4.11).
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", EXT4_GOING_FLAGS_NOLOGFLUSH))
    finally:
        os.close(fd)
