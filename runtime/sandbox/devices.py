"""Device nodes and the usual links of /dev."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from runtime.errors import ContainerError
from runtime.kernel.mount import move_mount
from runtime.sandbox.paths import make_directories, make_file
from runtime.sandbox.steps import step
from runtime.spec.model import Device, Spec

# config-linux.md, "Default Devices"; /dev/console only comes with a terminal
DEFAULT_DEVICES: Final = (
    Device("/dev/null", "c", 1, 3),
    Device("/dev/zero", "c", 1, 5),
    Device("/dev/full", "c", 1, 7),
    Device("/dev/random", "c", 1, 8),
    Device("/dev/urandom", "c", 1, 9),
    Device("/dev/tty", "c", 5, 0),
)

# config-linux.md, "Dev symbolic links"
_LINKS: Final = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
)

_KIND_BITS: Final = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def wants_devices(spec: Spec) -> bool:
    """Whether /dev is ours to fill: not when the configuration binds one from elsewhere."""
    return not any(mount.bind and mount.destination == "/dev" for mount in spec.mounts)


def devices_of(spec: Spec) -> tuple[Device, ...]:
    """The default devices and those of the configuration, which win."""
    own = {device.path: device for device in spec.linux.devices}
    if not wants_devices(spec):
        return tuple(own.values())
    return tuple(({device.path: device for device in DEFAULT_DEVICES} | own).values())


def make_devices(root_fd: int, devices: Iterable[Device], from_host: dict[str, int]) -> None:
    """Make device nodes.

    Args:
        root_fd: The container's root.
        devices: What to make.
        from_host: Path to a detached mount of the host's node, which is mounted instead.

    Raises:
        ContainerError: Another kind of file is in the way, or the kernel refused.
    """
    for device in devices:
        with step(f"make device {device.path} (linux.devices)"):
            if device.path in from_host:
                target = make_file(root_fd, device.path)
                try:
                    move_mount(from_host[device.path], target)
                finally:
                    os.close(target)
            else:
                _make_node(root_fd, device)


def _make_node(root_fd: int, device: Device) -> None:
    parent, name = posixpath.split(posixpath.normpath(device.path))
    parent_fd = make_directories(root_fd, parent)
    wanted = os.makedev(device.major, device.minor) if device.kind != "p" else 0
    try:
        try:
            os.mknod(name, _KIND_BITS[device.kind] | device.mode, wanted, dir_fd=parent_fd)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            same_kind = stat.S_IFMT(status.st_mode) == _KIND_BITS[device.kind]
            if not same_kind or (wanted and status.st_rdev != wanted):
                raise ContainerError(
                    f"{device.path}: another file is there already (linux.devices)",
                    reason="device-exists",
                ) from None
        os.chown(name, device.uid, device.gid, dir_fd=parent_fd, follow_symlinks=False)
        # The umask is 0 here, but a node that existed has a mode of its own; no symbolic link can
        # be meant, it was stat'ed above or just made
        os.chmod(name, device.mode, dir_fd=parent_fd)
    finally:
        os.close(parent_fd)


def make_links(root_fd: int) -> None:
    """Make /dev/fd, /dev/stdin and so on, where nothing of that name is there."""
    dev_fd = make_directories(root_fd, "/dev")
    try:
        for path, target in _LINKS:
            name = posixpath.basename(path)
            if name == "ptmx":
                # A node in the root file system would open the host's pseudo-terminals
                with suppress(FileNotFoundError, IsADirectoryError):
                    os.unlink(name, dir_fd=dev_fd)
            with step(f"link {path}"), suppress(FileExistsError):
                os.symlink(target, name, dir_fd=dev_fd)
    finally:
        os.close(dev_fd)
