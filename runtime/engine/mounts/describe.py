"""Mounts into records: which the sandbox has made, and what the others are made of."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from runtime.kernel.mount import (
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
)
from runtime.kernel.mountinfo import Mount

# File systems whose files are memory, and which a restore fills again
OF_MEMORY = frozenset({"tmpfs", "ramfs"})
# Views of what the kernel holds: mounted anew, they show it
OF_KERNEL = frozenset(
    {
        "binfmt_misc",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devtmpfs",
        "devpts",
        "efivarfs",
        "fusectl",
        "mqueue",
        "proc",
        "pstore",
        "securityfs",
        "sysfs",
        "tracefs",
    }
)
# The same, but programs put things there
OF_OBJECTS = frozenset({"bpf", "hugetlbfs"})
DELETED_ROOT = "//deleted"

_FLAGS = {
    "ro": MOUNT_ATTR_RDONLY,
    "nosuid": MOUNT_ATTR_NOSUID,
    "nodev": MOUNT_ATTR_NODEV,
    "noexec": MOUNT_ATTR_NOEXEC,
    "noatime": MOUNT_ATTR_NOATIME,
    "nodiratime": MOUNT_ATTR_NODIRATIME,
    "nosymfollow": MOUNT_ATTR_NOSYMFOLLOW,
}
_NAMESPACE = re.compile(r"(\w+):\[(\d+)\]$")


def attributes_of(mount: Mount) -> int:
    """``MOUNT_ATTR_*`` of a mount."""
    words = mount.options.split(",")
    attributes = sum(_FLAGS[word] for word in words if word in _FLAGS)
    if "noatime" not in words and "relatime" not in words:
        attributes |= MOUNT_ATTR_STRICTATIME
    return attributes


def data_of(mount: Mount) -> str:
    """Options of the file system without "rw" and "ro"."""
    words = mount.super_options.split(",")
    return ",".join(word for word in words if word not in ("rw", "ro"))


def is_read_only(mount: Mount) -> bool:
    """Whether the file system itself is read-only."""
    return mount.super_options.split(",")[0] == "ro"


def place_of(mount: Mount, parent: Mount | None) -> str:
    """Where a mount stands, relative to the top of its parent."""
    if parent is None:
        return "."
    inside = mount.point[len(parent.point.rstrip("/")) :]
    return inside.strip("/") or "."


def root_of(mount: Mount) -> str:
    """What a mount shows of its file system, without the mark of a lost name."""
    return mount.root.removesuffix(DELETED_ROOT)


def namespace_of(mount: Mount) -> tuple[str, int] | None:
    """Kind and inode of a bound namespace file."""
    match = _NAMESPACE.match(mount.root) if mount.fstype == "nsfs" else None
    return None if match is None else (match[1], int(match[2]))


def refusal(mount: Mount) -> tuple[str, str] | None:
    """Why a mount whose file system is not the sandbox's cannot be made again."""
    if "idmapped" in mount.options.split(","):
        return "mount-idmapped", "maps user and group ids, which wherry cannot save"
    if mount.fstype in OF_MEMORY | OF_KERNEL | OF_OBJECTS or mount.fstype == "nsfs":
        return None
    if mount.fstype == "overlay":
        paths = [
            path
            for word in data_of(mount).split(",")
            for key, _, value in [word.partition("=")]
            if key in ("lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir")
            for path in value.split(":")
            if path
        ]
        if all(path.startswith("/") for path in paths):
            return None
        return "mount-overlay", "names its layers by relative paths, which nobody can follow now"
    if os.major(mount.device):
        return "mount-device", "shows a file system of a device, which wherry cannot save"
    return "mount-kind", f"shows a file system of type {mount.fstype}, which wherry cannot save"


@dataclass(slots=True)
class Baseline:
    """The mounts that a sandbox has made, as `mountinfo.mount_points` gave them."""

    entries: list[tuple[str, ...]]

    def is_whole(self, mounts: list[Mount]) -> bool:
        """Whether nothing has changed since."""
        if len(mounts) != len(self.entries):
            return False
        return all(
            entry == _entry(mount)[: len(entry)]
            for entry, mount in zip(self.entries, mounts, strict=True)
        )

    def match(self, mounts: list[Mount]) -> dict[int, tuple[str, ...]]:
        """The entry of each mount that the sandbox has made, by mount id."""
        left = list(self.entries)
        found = {}
        for mount in mounts:
            entry = next((e for e in left if e[:2] == (mount.point, mount.fstype)), None)
            if entry is not None:
                left.remove(entry)
                found[mount.mount_id] = entry
        return found


def _entry(mount: Mount) -> tuple[str, ...]:
    return mount.point, mount.fstype, mount.options, mount.propagation, mount.super_options


def was_changed(mount: Mount, entry: tuple[str, ...]) -> tuple[bool, bool, bool]:
    """Whether attributes, propagation, and file system options of a given mount have changed."""
    pairs = list(zip(entry[2:], _entry(mount)[2:], strict=False))
    pairs += [("", "")] * (3 - len(pairs))
    options, propagation, data = (before != now for before, now in pairs)
    return options, propagation, data
