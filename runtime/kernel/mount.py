"""mount(2) and the descriptor-based mount interface: open_tree, move_mount, mount_setattr, fsopen.

The descriptor-based calls (Linux 5.2, ``mount_setattr`` 5.12) let a mount be made complete while it
is still attached nowhere, and then attached to a descriptor that was resolved safely, so a path in
a hostile root file system is never walked twice.
"""

from __future__ import annotations

import ctypes
import os

from runtime.kernel.libc import check, libc, syscall
from runtime.kernel.numbers import NR

# include/uapi/linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 1 << 1
MS_NODEV = 1 << 2
MS_NOEXEC = 1 << 3
MS_SYNCHRONOUS = 1 << 4
MS_REMOUNT = 1 << 5
MS_MANDLOCK = 1 << 6
MS_DIRSYNC = 1 << 7
MS_NOSYMFOLLOW = 1 << 8
MS_NOATIME = 1 << 10
MS_NODIRATIME = 1 << 11
MS_BIND = 1 << 12
MS_MOVE = 1 << 13
MS_REC = 1 << 14
MS_SILENT = 1 << 15
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_SYMLINKS = 0x01
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_SYMLINKS = 0x10
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOVE_MOUNT_SET_GROUP = 0x100

MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR__ATIME = 0x00000070  # a mask, not a flag
MOUNT_ATTR_RELATIME = 0x00000000
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
FSPICK_CLOEXEC = 1
FSPICK_EMPTY_PATH = 8

# include/uapi/linux/fcntl.h
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000


class mount_attr(ctypes.Structure):  # include/uapi/linux/mount.h, MOUNT_ATTR_SIZE_VER0
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


_mount = libc.mount
_mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_umount2 = libc.umount2
_umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def _raw(text: str | os.PathLike[str] | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def _c_string(text: str | os.PathLike[str]) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(os.fsencode(text))


def mount(
    source: str | os.PathLike[str] | None,
    target: str | os.PathLike[str],
    fstype: str | None,
    flags: int = 0,
    data: str | None = None,
) -> None:
    """Mount, bind, remount or change the propagation of *target*.

    Args:
        source: Device, directory or any name, as the file system wants it.
        target: Existing mount point; ``"."`` mounts on the working directory.
        fstype: File system type, None when *flags* need none.
        flags: ``MS_*``.
        data: Comma-separated options of the file system.

    Raises:
        OSError: The kernel refused.

    Source: man 2 mount.
    """
    call = f"mount({source!s}, {target!s}, {fstype}, {flags:#x}, {data!r})"
    raw_type = None if fstype is None else fstype.encode()
    check(_mount(_raw(source), os.fsencode(target), raw_type, flags, _raw(data)), call)


def umount2(target: str | os.PathLike[str], flags: int = 0) -> None:
    """Unmount the topmost mount on *target*. *flags* are ``MNT_*``. Source: man 2 umount2."""
    check(_umount2(os.fsencode(target), flags), f"umount2({target!s}, {flags:#x})")


def pivot_root(new_root: str | os.PathLike[str], put_old: str | os.PathLike[str]) -> None:
    """Swap the root mount of our mount namespace.

    ``pivot_root(".", ".")`` stacks the old root on top of the new one, where
    ``umount2(".", MNT_DETACH)`` removes it.

    Raises:
        OSError: EINVAL when a mount involved is shared or *new_root* is no mount point.

    Source: man 2 pivot_root.
    """
    new, old = _c_string(new_root), _c_string(put_old)
    syscall(
        f"pivot_root({new_root!s}, {put_old!s})",
        NR["pivot_root"],
        ctypes.addressof(new),
        ctypes.addressof(old),
    )


def open_tree(dir_fd: int, path: str | os.PathLike[str], flags: int) -> int:
    """Open a mount, or with ``OPEN_TREE_CLONE`` a detached copy of it.

    Args:
        dir_fd: Where a relative *path* starts, or ``AT_FDCWD``.
        path: ``""`` with ``AT_EMPTY_PATH`` takes *dir_fd* itself.
        flags: ``OPEN_TREE_CLONE``, ``AT_RECURSIVE`` (with submounts), ``AT_EMPTY_PATH``,
            ``AT_SYMLINK_NOFOLLOW``. Close-on-exec is always set.

    Returns:
        A descriptor usable as ``O_PATH``; closing the last one of a detached tree unmounts it.

    Raises:
        OSError: EINVAL when the mount is unbindable or of another mount namespace.

    Source: man 2 open_tree (Linux 5.2).
    """
    raw = _c_string(path)
    return syscall(
        f"open_tree({dir_fd}, {path!s}, {flags:#x})",
        NR["open_tree"],
        dir_fd,
        ctypes.addressof(raw),
        flags | OPEN_TREE_CLOEXEC,
    )


def move_mount(from_fd: int, to_fd: int, to_path: str | os.PathLike[str] = "") -> None:
    """Attach the mount that *from_fd* refers to.

    Args:
        from_fd: From ``open_tree`` or ``fsmount``.
        to_fd: Directory or file to mount on; start of *to_path* when that is given.
        to_path: Relative path below *to_fd*; empty mounts on *to_fd* itself.

    Raises:
        OSError: ENOTDIR for a file on a directory or the reverse.

    Source: man 2 move_mount (Linux 5.2).
    """
    empty, target = _c_string(""), _c_string(to_path)
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if os.fspath(to_path) else MOVE_MOUNT_T_EMPTY_PATH)
    syscall(
        f"move_mount({from_fd} -> {to_fd}, {to_path!s})",
        NR["move_mount"],
        from_fd,
        ctypes.addressof(empty),
        to_fd,
        ctypes.addressof(target),
        flags,
    )


def set_group(from_fd: int, to_fd: int) -> None:
    """Make a private mount share with others what another mount shares.

    Args:
        from_fd: Root of a mount that is shared, a slave, or both.
        to_fd: Root of a private mount of the same file system that shows no more of it.

    Raises:
        OSError: EINVAL when they do not fit together.

    Source: MOVE_MOUNT_SET_GROUP, man 2 move_mount (Linux 5.15).
    """
    empty = _c_string("")
    syscall(
        f"move_mount({from_fd} -> {to_fd}, MOVE_MOUNT_SET_GROUP)",
        NR["move_mount"],
        from_fd,
        ctypes.addressof(empty),
        to_fd,
        ctypes.addressof(empty),
        MOVE_MOUNT_SET_GROUP | MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
    )


def mount_setattr(
    fd: int,
    *,
    attr_set: int = 0,
    attr_clear: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
) -> None:
    """Change the attributes of a mount, or of a whole tree at once.

    Args:
        fd: Any descriptor of the mount's root.
        attr_set: ``MOUNT_ATTR_*`` to raise. An access-time mode goes with ``MOUNT_ATTR__ATIME`` in
            *attr_clear*.
        attr_clear: ``MOUNT_ATTR_*`` to drop.
        propagation: 0 or one of ``MS_SHARED``, ``MS_SLAVE``, ``MS_PRIVATE``, ``MS_UNBINDABLE``.
        userns_fd: With ``MOUNT_ATTR_IDMAP``: the user namespace that gives the mapping.
        recursive: All submounts too, or none of them when one refuses.

    Raises:
        OSError: EPERM for an attribute that a more privileged owner locked.

    Source: man 2 mount_setattr (Linux 5.12).
    """
    attr = mount_attr(attr_set, attr_clear, propagation, userns_fd)
    empty = _c_string("")
    syscall(
        f"mount_setattr({fd}, set={attr_set:#x}, clear={attr_clear:#x}, {propagation:#x})",
        NR["mount_setattr"],
        fd,
        ctypes.addressof(empty),
        AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0),
        ctypes.addressof(attr),
        ctypes.sizeof(attr),
    )


def fsopen(fstype: str) -> int:
    """Open a configuration context of a file system type. Source: man 2 fsopen (Linux 5.2)."""
    raw = _c_string(fstype)
    return syscall(f"fsopen({fstype})", NR["fsopen"], ctypes.addressof(raw), FSOPEN_CLOEXEC)


def fspick(fd: int) -> int:
    """Open the configuration of the file system that is mounted at *fd*, to change it.

    Source: man 2 fspick (Linux 5.2).
    """
    empty = _c_string("")
    return syscall(
        f"fspick({fd})",
        NR["fspick"],
        fd,
        ctypes.addressof(empty),
        FSPICK_CLOEXEC | FSPICK_EMPTY_PATH,
    )


def fsconfig_flag(fs_fd: int, key: str) -> None:
    """Set an option that has no value. Source: man 2 fsconfig."""
    raw_key = _c_string(key)
    syscall(
        f"fsconfig({key})",
        NR["fsconfig"],
        fs_fd,
        FSCONFIG_SET_FLAG,
        ctypes.addressof(raw_key),
        0,
        0,
    )


def fsconfig_reconfigure(fs_fd: int) -> None:
    """Apply what was changed to the file system. Source: man 2 fsconfig."""
    syscall("fsconfig(reconfigure)", NR["fsconfig"], fs_fd, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0)


def fsconfig_string(fs_fd: int, key: str, value: str | os.PathLike[str]) -> None:
    """Set a string option of a file system context; at most 255 bytes. Source: man 2 fsconfig."""
    raw_key, raw_value = _c_string(key), _c_string(value)
    syscall(
        f"fsconfig({key}={value!s})",
        NR["fsconfig"],
        fs_fd,
        FSCONFIG_SET_STRING,
        ctypes.addressof(raw_key),
        ctypes.addressof(raw_value),
        0,
    )


def fsconfig_fd(fs_fd: int, key: str, fd: int) -> None:
    """Give a file system context a descriptor as an option (overlay layers: Linux 6.13)."""
    raw_key = _c_string(key)
    syscall(
        f"fsconfig({key}=fd {fd})",
        NR["fsconfig"],
        fs_fd,
        FSCONFIG_SET_FD,
        ctypes.addressof(raw_key),
        0,
        fd,
    )


def fsconfig_create(fs_fd: int) -> None:
    """Create the superblock from what was configured. Source: man 2 fsconfig."""
    syscall("fsconfig(create)", NR["fsconfig"], fs_fd, FSCONFIG_CMD_CREATE, 0, 0, 0)


def fsmount(fs_fd: int, attributes: int = 0) -> int:
    """A detached mount of a created superblock; *attributes* are ``MOUNT_ATTR_*``.

    Source: man 2 fsmount (Linux 5.2).
    """
    return syscall("fsmount", NR["fsmount"], fs_fd, FSMOUNT_CLOEXEC, attributes)
