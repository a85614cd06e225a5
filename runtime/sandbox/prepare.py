"""What the host gives to a container, opened before its init exists.

Everything that a path of the host leads to becomes a descriptor here, while we still have the
host's privileges: bind sources and the root file system as detached mounts (man 2 open_tree), with
their attributes already set, namespaces to join, the start FIFO. The init then only attaches.
So a container in a user namespace can have sources that its own root may not even look at, and a
missing source is reported before anything was made.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from runtime.kernel.anonymous_device import next_device
from runtime.kernel.mount import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    MOUNT_ATTR_IDMAP,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    OPEN_TREE_CLONE,
    mount_setattr,
    open_tree,
)
from runtime.kernel.namespaces import NAMESPACE_FLAGS
from runtime.sandbox.cgroups import Cgroups
from runtime.sandbox.overlay import Overlay
from runtime.sandbox.seccomp import SeccompFilter
from runtime.sandbox.steps import step
from runtime.sandbox.userns import namespace_with
from runtime.spec.model import Device, Linux, Mount, Spec
from runtime.spec.reader import invalid, unsupported


class Source(NamedTuple):
    """A detached mount, and whether its root is a directory."""

    fd: int
    is_directory: bool


@dataclass(slots=True)
class Prepared:
    """Descriptors for the init, all close-on-exec.

    Attributes:
        root: The root file system.
        binds: ``Mount.index`` to its source.
        devices: Device path to the host's node, where the init may not make nodes.
        cgroups: Hierarchy key to the container's own cgroup directory, for a container that sees
            cgroups without a cgroup namespace.
        namespaces: Kind to a namespace to join.
        fifo: The start FIFO (``O_PATH``), -1 without one.
        seccomp: The compiled profile.
    """

    root: int = -1
    binds: dict[int, Source] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    cgroups: dict[str, int] = field(default_factory=dict)
    namespaces: dict[str, int] = field(default_factory=dict)
    fifo: int = -1
    seccomp: SeccompFilter | None = None

    def fds(self) -> Iterator[int]:
        """All descriptors."""
        yield from (fd for fd in (self.root, self.fifo) if fd >= 0)
        yield from (source.fd for source in self.binds.values())
        yield from (*self.devices.values(), *self.cgroups.values(), *self.namespaces.values())

    def close(self) -> None:
        """Close them; detached mounts that were not attached disappear."""
        for fd in self.fds():
            os.close(fd)


@contextmanager
def prepare(
    spec: Spec,
    *,
    overlay: Overlay | None,
    cgroups: Cgroups | None,
    exec_fifo: Path | None,
    host_devices: tuple[Device, ...],
    root_device: int = 0,
) -> Iterator[Prepared]:
    """Open everything that *spec* takes from the host; it is closed again at the end.

    Args:
        spec: The configuration.
        overlay: Give the container this overlay over its root file system.
        cgroups: The container's cgroups, for mounts of type cgroup.
        exec_fifo: The FIFO that the init waits on.
        root_device: The st_dev that the overlay shall have if possible.
        host_devices: Devices whose nodes come from the host instead of from mknod.

    Raises:
        SpecError: A source is missing, or is not what the configuration says.
        ContainerError: The kernel refused.
    """
    prepared = Prepared()
    try:
        if spec.linux.seccomp is not None:
            from runtime.sandbox.seccomp import compile_profile

            prepared.seccomp = compile_profile(spec.linux.seccomp)
        for namespace in spec.linux.namespaces:
            if namespace.path is not None:
                prepared.namespaces[namespace.kind] = _open_namespace(
                    namespace.kind, namespace.path
                )
        if "mnt" not in prepared.namespaces:
            prepared.root = _open_root(spec, overlay, root_device)
        for mount in spec.mounts:
            if mount.bind:
                prepared.binds[mount.index] = _open_bind(mount, spec.linux)
        for device in host_devices:
            prepared.devices[device.path] = _open_device(device)
        if cgroups is not None and _sees_host_cgroups(spec):
            prepared.cgroups = _open_cgroups(cgroups)
        if exec_fifo is not None:
            with step(f"open the start FIFO {exec_fifo}"):
                prepared.fifo = os.open(exec_fifo, os.O_PATH | os.O_CLOEXEC)
        yield prepared
    finally:
        prepared.close()


def _open_namespace(kind: str, path: str) -> int:
    label = f"linux.namespaces[{kind}].path"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise invalid(label, f"{path}: {os.strerror(exc.errno or 0).lower()}") from exc
    # A namespace file knows its own kind through its name, mnt:[4026531832], if it is one at all
    name = os.readlink(f"/proc/self/fd/{fd}")
    found = name.partition(":")[0]
    is_namespace = found in NAMESPACE_FLAGS or stat.S_ISREG(os.fstat(fd).st_mode)
    if not is_namespace or (found in NAMESPACE_FLAGS and found != kind):
        os.close(fd)
        raise invalid(label, f"{path} is {name}, no {kind} namespace")
    return fd


def _open_root(spec: Spec, overlay: Overlay | None, device: int) -> int:
    if overlay is not None and not overlay.mounted:
        with next_device(device):
            return overlay.attach()
    rootfs = spec.rootfs if overlay is None else overlay.merged
    try:
        fd = open_tree(AT_FDCWD, rootfs, OPEN_TREE_CLONE | AT_RECURSIVE)
    except OSError as exc:
        raise invalid("root.path", f"{rootfs}: {os.strerror(exc.errno or 0).lower()}") from exc
    # pivot_root refuses a shared mount. As a slave it still receives what the host mounts below.
    with step(f"make {rootfs} a slave mount (root.path)"):
        mount_setattr(fd, propagation=MS_SLAVE, recursive=True)
    return fd


def _open_bind(mount: Mount, linux: Linux) -> Source:
    flags = OPEN_TREE_CLONE | (AT_RECURSIVE if mount.recursive else 0)
    try:
        fd = open_tree(AT_FDCWD, mount.source, flags)
    except OSError as exc:
        why = f"{mount.source}: {os.strerror(exc.errno or 0).lower()}"
        if exc.errno == errno.EINVAL:
            why = f"{mount.source}: the mount it is on cannot be bound (unbindable)"
        raise invalid(f"{mount.path}.source", why) from exc
    try:
        with step(f"set options of {mount.source} ({mount.path}.options)"):
            _set_attributes(fd, mount)
        if mount.id_mapped:
            _map_ids(fd, mount, linux)
        return Source(fd, stat.S_ISDIR(os.fstat(fd).st_mode))
    except BaseException:
        os.close(fd)
        raise


def _map_ids(fd: int, mount: Mount, linux: Linux) -> None:
    uids, gids = mount.uid_mappings or linux.uid_mappings, mount.gid_mappings or linux.gid_mappings
    userns = namespace_with(uids, gids)
    try:
        # EINVAL: the file system cannot do it, or is mapped already
        with step(f"map the ids of {mount.source} ({mount.path}.options)", reason="idmap"):
            mount_setattr(
                fd,
                attr_set=MOUNT_ATTR_IDMAP,
                userns_fd=userns,
                recursive=mount.id_mapped == "ridmap",
            )
    finally:
        os.close(userns)


def _set_attributes(fd: int, mount: Mount) -> None:
    if mount.rec_set or mount.rec_clear:
        mount_setattr(fd, attr_set=mount.rec_set, attr_clear=mount.rec_clear, recursive=True)
    if mount.attr_set or mount.attr_clear:
        mount_setattr(fd, attr_set=mount.attr_set, attr_clear=mount.attr_clear)
    # A clone of a shared mount is its peer: what the container mounts or unmounts below would
    # happen on the host as well. That must be asked for.
    if not any(kind & MS_SHARED for kind in mount.propagation):
        mount_setattr(fd, propagation=MS_SLAVE, recursive=True)
    set_propagation(fd, mount)


def set_propagation(fd: int, mount: Mount) -> None:
    """Apply the propagation options of a mount, in their order."""
    for kind in mount.propagation:
        mount_setattr(fd, propagation=kind & ~MS_REC, recursive=bool(kind & MS_REC))


def _open_device(device: Device) -> int:
    path = device.path
    try:
        fd = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE)
    except OSError as exc:
        why = f"{path}: {os.strerror(exc.errno or 0).lower()} on the host, and a container in a "
        raise unsupported("linux.devices", f"{why}user namespace cannot make nodes") from exc
    status = os.fstat(fd)
    numbers = (os.major(status.st_rdev), os.minor(status.st_rdev))
    if numbers != (device.major, device.minor):
        os.close(fd)
        why = f"{path} is {numbers[0]}:{numbers[1]} on the host, not {device.major}:{device.minor}"
        raise unsupported("linux.devices", f"{why}; in a user namespace nodes come from the host")
    return fd


def _sees_host_cgroups(spec: Spec) -> bool:
    wants = any(mount.fstype in ("cgroup", "cgroup2") for mount in spec.mounts)
    return wants and spec.linux.namespace("cgroup") is None


def _open_cgroups(cgroups: Cgroups) -> dict[str, int]:
    found = {}
    directories = dict(cgroups.v1)
    if cgroups.v2 is not None:
        directories[""] = cgroups.v2
    for key, directory in directories.items():
        with step(f"open cgroup {directory}"):
            found[key] = open_tree(AT_FDCWD, directory, OPEN_TREE_CLONE)
    return found


def clone_of(fd: int) -> int:
    """A detached copy of what is mounted at *fd*, without submounts."""
    return open_tree(fd, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)
