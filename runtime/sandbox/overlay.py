"""An overlay over a root file system: what the container changes lands in a directory of its own.

Normally the overlay is mounted nowhere on the host. ``attach()`` makes a detached mount, which goes
straight into the container's mount namespace and disappears with it, whatever is killed first.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from runtime.errors import ContainerError
from runtime.kernel.ext4 import goal_file
from runtime.kernel.mount import (
    MNT_DETACH,
    fsconfig_create,
    fsconfig_string,
    fsmount,
    fsopen,
    move_mount,
    umount2,
)
from runtime.sandbox.own_file_system import OwnFileSystem, is_mounted
from runtime.sandbox.steps import step

_FIRST_NUMBER = 16  # behind the inodes that ext4 has for itself


class Overlay(NamedTuple):
    """The four directories of an overlay.

    Attributes:
        lower: The read-only root below.
        upper: Receives every change; belongs to the image at a checkpoint.
        work: The file system's own scratch space, on the same file system as *upper*.
        merged: Where ``mount()`` puts the result on the host.
        hash_seed: Of the file system of the container's own that the last three are in, see
            ``own_file_system``; empty when they are in none.
    """

    lower: Path
    upper: Path
    work: Path
    merged: Path
    hash_seed: str = ""

    @classmethod
    def below(cls, directory: Path, lower: Path) -> Overlay:
        """The overlay over *lower* whose own directories are in *directory*."""
        return cls(lower, directory / "upper", directory / "work", directory / "merged")

    def to_json(self) -> dict[str, Any]:
        """The directories, for the container's record."""
        return {
            "lower": str(self.lower),
            "upper": str(self.upper),
            "work": str(self.work),
            "merged": str(self.merged),
            "hash_seed": self.hash_seed,
        }

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Overlay:
        """The overlay of a container's record."""
        lower, upper, work, merged = (
            Path(obj[key]) for key in ("lower", "upper", "work", "merged")
        )
        return cls(lower, upper, work, merged, str(obj.get("hash_seed") or ""))

    def mount_own(self, own: OwnFileSystem, seed: str = "") -> Overlay:
        """Mount a file system of its own, where this host can, and make the directories.

        Args:
            own: Made for the directory that *upper* is in.
            seed: The hash seed of the one that it takes the place of.

        Returns:
            The overlay that says so.
        """
        seed = own.mount(seed)
        if not seed:
            self.make_directories()
            return self
        # ext4 spreads the directories at its top over the whole disk. Numbers that begin low
        # are possible in a smaller file system as well.
        goal = goal_file(self.upper.parent.stat().st_dev)
        goal.write_text(str(_FIRST_NUMBER))
        self.make_directories()
        goal.write_text("0")
        return self._replace(hash_seed=seed)

    def require_here(self) -> None:
        """Make sure that we see the upper directory as the container does.

        Raises:
            ContainerError: Its file system is not mounted in our mount namespace.
        """
        if self.hash_seed and not is_mounted(self.upper.parent):
            raise ContainerError(
                f"{self.upper.parent}: the container's own file system is not mounted in this "
                "mount namespace; run the command where the container was created",
                reason="overlay-elsewhere",
            )

    def make_directories(self) -> None:
        """Make the overlay's own directories, for the owner of the host only above the layers.

        The upper directory becomes the container's ``/``, so it copies mode and owner of *lower*.
        """
        self.upper.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self.work, self.merged):
            path.mkdir(mode=0o700, exist_ok=True)
        if not self.upper.exists():
            self.upper.mkdir(mode=0o700)
            below = self.lower.stat()
            os.chown(self.upper, below.st_uid, below.st_gid)
            self.upper.chmod(below.st_mode & 0o7777)

    def attach(self) -> int:
        """Make the overlay as a detached mount; closing its descriptor removes it again.

        Raises:
            ContainerError: The directories cannot be layers; says which file system to use.
        """
        self.make_directories()
        with step(f"make an overlay over {self.lower}", reason="overlay"):
            fs_fd = fsopen("overlay")
        try:
            fsconfig_string(fs_fd, "source", "overlay")
            # Changes must not be lost with the names: without these, renaming a lower directory
            # fails with EXDEV, and inode numbers change when a file is copied up.
            self._configure(fs_fd)
            fsconfig_create(fs_fd)
            return fsmount(fs_fd)
        except OSError as exc:
            raise self._explained(exc) from exc
        finally:
            os.close(fs_fd)

    def _configure(self, fs_fd: int) -> None:
        lower = str(self.lower)
        try:
            fsconfig_string(fs_fd, "lowerdir+", lower)  # Linux 6.5: a path as it is
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            fsconfig_string(fs_fd, "lowerdir", _escaped(lower))
        fsconfig_string(fs_fd, "upperdir", self.upper)
        fsconfig_string(fs_fd, "workdir", self.work)
        # Layers on two file systems: a number in its high bits says which, so that all files have
        # one device. Lower files had another number without it once they are copied up.
        fsconfig_string(fs_fd, "xino", "on" if self.hash_seed else "auto")

    def _explained(self, exc: OSError) -> ContainerError:
        why = os.strerror(exc.errno or 0).lower()
        message = f"cannot make an overlay over {self.lower} with upper {self.upper}: {why}"
        if exc.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            message += "; give a --root on ext4, xfs, btrfs or tmpfs"
        if exc.errno == errno.ENODEV:
            message += "; this kernel has no overlay file system"
        return ContainerError(message, reason="overlay")

    @property
    def mounted(self) -> bool:
        """Whether ``mount()`` has put it on the host."""
        return os.path.ismount(self.merged)

    def mount(self) -> None:
        """Mount the overlay on *merged*, in our own mount namespace.

        A container does not need this. It is for looking at a container's files from the host.

        Raises:
            ContainerError: As ``attach``.
        """
        fd = self.attach()
        try:
            target = os.open(self.merged, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with step(f"mount the overlay on {self.merged}", reason="overlay"):
                    move_mount(fd, target)
            finally:
                os.close(target)
        finally:
            os.close(fd)

    def unmount(self) -> None:
        """Undo ``mount()``; nothing happens when it is not mounted."""
        with suppress(FileNotFoundError):
            if self.mounted:
                umount2(self.merged, MNT_DETACH)


def _escaped(path: str) -> str:
    """A path in the list syntax of ``lowerdir``."""
    return path.replace("\\", "\\\\").replace(":", "\\:")
