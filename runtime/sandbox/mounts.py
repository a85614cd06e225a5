"""The container's mounts, made by its init inside the new mount namespace.

Every destination is resolved inside the root (``runtime.sandbox.paths``) and then used as a
descriptor, so no link in the root file system can lead a mount out of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.kernel.anonymous_device import next_device
from runtime.kernel.mount import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    OPEN_TREE_CLONE,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
)
from runtime.sandbox.cgroups.hierarchy import Hierarchy
from runtime.sandbox.copy_up import copy_tree
from runtime.sandbox.paths import make_directories, make_mount_point, open_inside
from runtime.sandbox.prepare import Prepared, clone_of, set_propagation
from runtime.sandbox.steps import step
from runtime.spec.model import Mount


@dataclass(slots=True)
class Mounter:
    """Makes the mounts of one container.

    Attributes:
        root_fd: The container's root, attached.
        prepared: Sources from the host.
        hierarchies: The host's cgroup hierarchies, for mounts of type cgroup.
        devices: The st_dev that tmpfs mounts shall have if possible, by their destination.
    """

    root_fd: int
    prepared: Prepared
    hierarchies: list[Hierarchy]
    devices: Mapping[str, int] = field(default_factory=dict)
    _become_readonly: list[Mount] = field(default_factory=list)

    def mount_all(self, mounts: tuple[Mount, ...]) -> None:
        """Make all mounts in their order.

        Raises:
            ContainerError: Names the mount that failed.
        """
        for entry in mounts:
            with step(f"mount {entry.fstype or 'bind'} on {entry.destination} ({entry.path})"):
                if entry.bind:
                    self._bind(entry)
                elif entry.fstype == "cgroup":
                    self._cgroup(entry)
                elif entry.fstype == "cgroup2":
                    self._cgroup2(entry)
                else:
                    self._file_system(entry)

    def finish(self) -> None:
        """Make the tmpfs mounts read-only that had to be filled first."""
        for entry in self._become_readonly:
            with step(f"make {entry.destination} read-only ({entry.path})"):
                fd = open_inside(self.root_fd, entry.destination)
                try:
                    mount_setattr(fd, attr_set=MOUNT_ATTR_RDONLY)
                finally:
                    os.close(fd)

    def _bind(self, entry: Mount) -> None:
        source = self.prepared.binds[entry.index]
        target = make_mount_point(self.root_fd, entry.destination, directory=source.is_directory)
        try:
            move_mount(source.fd, target)
        finally:
            os.close(target)

    def _file_system(self, entry: Mount) -> None:
        flags, data = entry.flags, entry.data
        existing = -1
        target = make_directories(self.root_fd, entry.destination)
        try:
            if entry.fstype == "tmpfs":
                data = _with_mode(data, target)
                if flags & MS_RDONLY:
                    # Mount points, device nodes and copies go into it first
                    flags &= ~MS_RDONLY
                    self._become_readonly.append(entry)
                if entry.copy_up:
                    existing = open_inside(target, ".", os.O_RDONLY | os.O_DIRECTORY)
            device = self.devices.get(entry.destination, 0) if entry.fstype == "tmpfs" else 0
            with next_device(device):
                mount_on(target, entry.source or entry.fstype, entry.fstype, flags, data)
        finally:
            os.close(target)
        mounted = open_inside(self.root_fd, entry.destination, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if existing >= 0:
                copy_tree(existing, mounted)
                os.close(existing)
            finish_mount(mounted, entry)
        finally:
            os.close(mounted)

    def _cgroup2(self, entry: Mount) -> None:
        os.close(make_directories(self.root_fd, entry.destination))
        self._mount_hierarchy(self.root_fd, entry.destination, "", entry)
        fd = open_inside(self.root_fd, entry.destination)
        try:
            finish_mount(fd, entry)
        finally:
            os.close(fd)

    def _cgroup(self, entry: Mount) -> None:
        """All hierarchies below one directory; on a host with cgroup v2 alone, just that."""
        if all(hierarchy.version == 2 for hierarchy in self.hierarchies):
            self._cgroup2(entry)
            return
        target = make_directories(self.root_fd, entry.destination)
        try:
            mount_on(target, "cgroup", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755")
        finally:
            os.close(target)
        base = open_inside(self.root_fd, entry.destination)
        try:
            for hierarchy in self.hierarchies:
                name = hierarchy.mount_point.name if hierarchy.key else "unified"
                os.mkdir(name, 0o755, dir_fd=base)
                self._mount_hierarchy(base, name, hierarchy.key, entry)
                for controller in hierarchy.controllers:
                    if hierarchy.key and controller != name and "=" not in controller:
                        os.symlink(name, controller, dir_fd=base)
            if entry.attr_set & MOUNT_ATTR_RDONLY:
                mount_setattr(base, attr_set=MOUNT_ATTR_RDONLY)
            finish_mount(base, entry)
        finally:
            os.close(base)

    def _mount_hierarchy(self, base: int, path: str, key: str, entry: Mount) -> None:
        target = open_inside(base, path)
        try:
            source = self.prepared.cgroups.get(key)
            if source is not None:
                # Without a cgroup namespace: show the container's own cgroup alone
                move_mount(source, target)
            else:
                fstype = "cgroup" if key else "cgroup2"
                data = key if key else entry.data
                mount_on(target, fstype, fstype, MS_NOSUID | MS_NODEV | MS_NOEXEC, data)
        finally:
            os.close(target)
        top = open_inside(base, path)
        try:
            fixed = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
            access_time = entry.attr_clear & MOUNT_ATTR__ATIME
            mount_setattr(top, attr_set=fixed | entry.attr_set, attr_clear=access_time)
        finally:
            os.close(top)


def finish_mount(fd: int, entry: Mount) -> None:
    """What a new file system's mount gets once it is there: ``rro`` and the like, propagation."""
    if entry.rec_set or entry.rec_clear:
        mount_setattr(fd, attr_set=entry.rec_set, attr_clear=entry.rec_clear, recursive=True)
    set_propagation(fd, entry)


def mount_on(target: int, source: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Mount a new file system on the directory *target*."""
    # "." instead of a path: what the descriptor means cannot change, and /proc is not needed
    os.fchdir(target)
    try:
        mount(source, ".", fstype, flags, data or None)
    finally:
        os.chdir("/")


def _with_mode(data: str, target: int) -> str:
    """tmpfs options with the mode of the directory that it covers, unless one is given."""
    if any(option.startswith("mode=") for option in data.split(",")):
        return data
    mode = f"mode={stat.S_IMODE(os.fstat(target).st_mode):04o}"
    return f"{data},{mode}" if data else mode


def mask_paths(root_fd: int, paths: tuple[str, ...], null_fd: int) -> None:
    """Hide paths: a file behind /dev/null, a directory behind an empty read-only tmpfs.

    Args:
        root_fd: The container's root.
        paths: ``linux.maskedPaths``; one that does not exist needs no hiding.
        null_fd: The host's /dev/null, any descriptor of it in our mount namespace.
    """
    for path in paths:
        with step(f"mask {path} (linux.maskedPaths)"):
            try:
                target = open_inside(root_fd, path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                if stat.S_ISDIR(os.fstat(target).st_mode):
                    mount_on(target, "tmpfs", "tmpfs", MS_RDONLY, "size=0k,nr_inodes=2,mode=755")
                else:
                    null = clone_of(null_fd)
                    try:
                        move_mount(null, target)
                    finally:
                        os.close(null)
            finally:
                os.close(target)


def make_readonly(root_fd: int, paths: tuple[str, ...]) -> None:
    """Make ``linux.readonlyPaths`` read-only, each with everything mounted below it."""
    for path in paths:
        with step(f"make {path} read-only (linux.readonlyPaths)"):
            try:
                target = open_inside(root_fd, path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                copy = open_tree(target, "", OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE)
                try:
                    mount_setattr(copy, attr_set=MOUNT_ATTR_RDONLY, recursive=True)
                    move_mount(copy, target)
                finally:
                    os.close(copy)
            finally:
                os.close(target)
