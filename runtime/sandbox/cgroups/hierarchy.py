"""Which cgroup hierarchies this host has mounted, and where we are in them."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import NamedTuple


class Hierarchy(NamedTuple):
    """One mounted cgroup hierarchy.

    Attributes:
        version: 1 or 2.
        controllers: What it controls; a named one (systemd's) has ``name=…`` only.
        mount_point: Where it is mounted.
        root: The cgroup that is visible at the mount point, ``/`` outside of containers.
        own: Our own cgroup in it, as /proc/self/cgroup says.
    """

    version: int
    controllers: tuple[str, ...]
    mount_point: Path
    root: str
    own: str

    @property
    def key(self) -> str:
        """How /proc/PID/cgroup calls it: the controllers, or nothing for cgroup v2."""
        return "" if self.version == 2 else ",".join(self.controllers)

    def directory(self, cgroup: str) -> Path:
        """The directory of an absolute cgroup path, as seen from the mount point."""
        return self.mount_point / cgroup.strip("/") if cgroup.strip("/") else self.mount_point

    @property
    def own_directory(self) -> Path:
        """The directory of our own cgroup."""
        relative = posixpath.relpath(self.own, self.root)
        # Outside of what is mounted (a namespaced view): the mount point is the best we have
        return self.mount_point if relative.startswith("..") else self.mount_point / relative


def write_file(path: Path, value: str) -> None:
    """Write a cgroup file that exists.

    Raises:
        FileNotFoundError: This kernel has no such file (``open(path, "w")`` would try to create it
            and get EACCES).
        OSError: The kernel refused the value.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def find_hierarchies() -> list[Hierarchy]:
    """All mounted hierarchies, cgroup v2 last.

    Source: man 7 cgroups; Documentation/admin-guide/cgroup-v2.rst.
    """
    own_paths = _own_paths(Path("/proc/self/cgroup").read_text())
    mounts = Path("/proc/self/mountinfo").read_text()
    found: dict[str, Hierarchy] = {}
    for line in mounts.splitlines():
        fields, _, tail = line.partition(" - ")
        fstype, _, super_options = tail.split(" ", 2)
        if fstype not in ("cgroup", "cgroup2"):
            continue
        root, mount_point = (_unescape(field) for field in fields.split(" ")[3:5])
        key = _key_of(fstype, super_options, own_paths)
        if key is None or key in found:
            continue
        version = 2 if fstype == "cgroup2" else 1
        directory = Path(mount_point)
        controllers = _controllers_v2(directory) if version == 2 else tuple(key.split(","))
        found[key] = Hierarchy(version, controllers, directory, root, own_paths[key])
    return sorted(found.values(), key=lambda hierarchy: (hierarchy.version, hierarchy.key))


def _own_paths(text: str) -> dict[str, str]:
    """Our cgroups by hierarchy key. A path may contain colons, so only two are split off."""
    return {parts[1]: parts[2] for parts in (line.split(":", 2) for line in text.splitlines())}


def _key_of(fstype: str, super_options: str, own_paths: dict[str, str]) -> str | None:
    if fstype == "cgroup2":
        return "" if "" in own_paths else None
    options = set(super_options.split(","))
    for key in own_paths:
        if key and set(key.split(",")) <= options:
            return key
    return None


def _controllers_v2(directory: Path) -> tuple[str, ...]:
    return tuple((directory / "cgroup.controllers").read_text().split())


def _unescape(field: str) -> str:
    """Undo mountinfo's octal escapes of blanks and backslashes."""
    if "\\" not in field:
        return field
    return os.fsdecode(os.fsencode(field).decode("unicode_escape").encode("latin-1"))
