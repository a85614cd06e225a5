"""Probes of mounts and of opening files safely."""

from __future__ import annotations

import ctypes
import os
import struct
import tempfile
from pathlib import Path

from runtime.kernel.ext4 import find_mkfs
from runtime.kernel.features import Need, UnavailableError, probe
from runtime.kernel.libc import check, libc
from runtime.kernel.probes.attempt import in_child, raw
from runtime.kernel.probes.namespaces import CLONE_NEWNS

_GROUP = "mounts and files"

# <sys/mount.h>
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
# <linux/mount.h>
OPEN_TREE_CLONE = 1
MOUNT_ATTR_RDONLY = 1
# <fcntl.h>
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
# <linux/openat2.h>
RESOLVE_IN_ROOT = 0x10


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    result = libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
    check(result, f"mount({target})")


def _private_tmpfs(directory: str) -> None:
    raw("unshare", CLONE_NEWNS)
    _mount("none", "/", None, MS_REC | MS_PRIVATE, None)
    _mount("tmpfs", directory, "tmpfs", 0, None)


def _in_private_tmpfs(attempt_name: str) -> str:
    """Run one of this module's attempts in a child, below a tmpfs only it sees."""
    with tempfile.TemporaryDirectory(prefix="wherry-check-") as directory:

        def attempt() -> str:
            _private_tmpfs(directory)
            return _ATTEMPTS[attempt_name](directory)

        return in_child(attempt)


def _overlay(directory: str) -> str:
    layers = {name: Path(directory, name) for name in ("lower", "upper", "work", "merged")}
    for layer in layers.values():
        layer.mkdir()
    options = ",".join(f"{name}dir={layers[name]}" for name in ("lower", "upper", "work"))
    _mount("overlay", str(layers["merged"]), "overlay", 0, options)
    return ""


def _mount_setattr(directory: str) -> str:
    path = ctypes.create_string_buffer(os.fsencode(directory))
    attributes = ctypes.create_string_buffer(struct.pack("4Q", MOUNT_ATTR_RDONLY, 0, 0, 0), 32)
    addresses = ctypes.addressof(path), ctypes.addressof(attributes)
    raw("mount_setattr", AT_FDCWD, addresses[0], AT_RECURSIVE, addresses[1], 32)
    return ""


def _open_tree(directory: str) -> str:
    path = ctypes.create_string_buffer(os.fsencode(directory))
    os.close(raw("open_tree", AT_FDCWD, ctypes.addressof(path), OPEN_TREE_CLONE))
    return ""


_ATTEMPTS = {"overlay": _overlay, "mount_setattr": _mount_setattr, "open_tree": _open_tree}


@probe(
    "overlayfs",
    group=_GROUP,
    used_for="`wherry do` and every container with a private overlay",
    without_it="only `run` and `create` with a bundle, without an overlay",
)
def _probe_overlayfs() -> str:
    return _in_private_tmpfs("overlay")


@probe(
    "own-ext4",
    group=_GROUP,
    used_for="inode numbers that are after a restore what they were before",
    without_it="the files of a private overlay come back under other inode numbers",
)
def _own_ext4() -> str:
    program = find_mkfs()
    os.close(os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC))
    return program


@probe(
    "mount-setattr",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="read-only mounts and recursive mount options",
    without_it="no container can be made",
)
def _probe_mount_setattr() -> str:
    return _in_private_tmpfs("mount_setattr")


@probe(
    "open-tree",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="handing a mount to another mount namespace",
    without_it="no container can be made",
)
def _probe_open_tree() -> str:
    return _in_private_tmpfs("open_tree")


@probe(
    "openat2",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="opening paths that cannot leave the container's root",
    without_it="no container can be made",
)
def _openat2() -> str:
    path = ctypes.create_string_buffer(b"proc")
    how = ctypes.create_string_buffer(struct.pack("3Q", os.O_PATH, 0, RESOLVE_IN_ROOT), 24)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        os.close(raw("openat2", root, ctypes.addressof(path), ctypes.addressof(how), 24))
    finally:
        os.close(root)
    return ""


@probe(
    "file-handles",
    group=_GROUP,
    need=Need.UNUSED,
    used_for="finding the file behind an inotify watch",
    without_it="the file is searched for by its inode, as this version always does",
)
def _file_handles() -> str:
    # struct file_handle, <fcntl.h>: handle_bytes, handle_type, then at most 128 bytes
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128), 136)
    mount_id = ctypes.c_int()
    path = ctypes.create_string_buffer(b"/")
    addresses = [ctypes.addressof(item) for item in (path, handle, mount_id)]
    raw("name_to_handle_at", AT_FDCWD, *addresses, 0)
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.close(raw("open_by_handle_at", root, addresses[1], os.O_PATH))
    finally:
        os.close(root)
    return ""


@probe(
    "device-pts",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="terminals of containers",
    without_it="no container can be made",
)
def _devpts() -> str:
    kinds = Path("/proc/filesystems").read_text().split()
    if "devpts" not in kinds:
        raise UnavailableError("the kernel has no devpts file system")
    return ""
