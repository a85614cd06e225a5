"""Directories of the cgroup file system: what is in them, and how they are filled and removed."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from runtime.errors import ContainerError
from runtime.sandbox.cgroups.hierarchy import write_file

REMOVE_POLL_S = 0.002


def subdirectories(directory: Path) -> Iterator[Path]:
    """*directory* and all below it, innermost first."""
    for path, _, _ in os.walk(directory, topdown=False):
        yield Path(path)


def pids_below(directory: Path) -> set[int]:
    """All processes of a cgroup and of those below it, in our pid namespace."""
    pids: set[int] = set()
    for path in subdirectories(directory):
        with suppress(FileNotFoundError):
            try:
                pids.update(map(int, (path / "cgroup.procs").read_text().split()))
            except OSError as exc:
                # ENODEV: removed while open; EOPNOTSUPP: a threaded cgroup, its domain lists them
                if exc.errno not in (errno.ENODEV, errno.EOPNOTSUPP):
                    raise
    pids.discard(0)  # a process that our pid namespace does not see
    return pids


def remove_tree(directory: Path, deadline: float) -> None:
    """Remove a cgroup and those below it; one that is gone already is fine.

    Args:
        directory: The outermost one.
        deadline: By ``time.monotonic``; until then processes may still be leaving.

    Raises:
        ContainerError: Processes are still there; names them.
    """
    for path in subdirectories(directory):
        while True:
            try:
                path.rmdir()
            except FileNotFoundError:
                pass
            except OSError as exc:
                if exc.errno != errno.EBUSY:
                    raise ContainerError(
                        f"cannot remove cgroup {path}: {exc.strerror}", reason="cgroup"
                    ) from exc
                if time.monotonic() >= deadline:
                    pids = sorted(pids_below(path))[:5]
                    raise ContainerError(
                        f"cgroup {path} still has processes {pids}; kill them and try again",
                        reason="cgroup-busy",
                    ) from None
                time.sleep(REMOVE_POLL_S)
                continue
            break


def inherit_cpuset(directory: Path) -> None:
    """A new v1 cpuset is empty and takes no process; fill it, from the top, like its parent."""
    if not (directory.parent / "cpuset.cpus").exists():
        return
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not (directory / name).read_text().strip():
            if not (directory.parent / name).read_text().strip():
                inherit_cpuset(directory.parent)
            write_file(directory / name, (directory.parent / name).read_text())


def enable_controllers(directory: Path, wanted: set[str], *, everything: bool) -> None:
    """Pass controllers down to *directory*.

    Args:
        directory: The container's cgroup.
        wanted: Controllers that limits need.
        everything: Also pass on what is available, for statistics; then failures are no matter.
    """
    ancestors: list[Path] = []
    parent = directory.parent
    while (parent / "cgroup.controllers").exists():
        ancestors.insert(0, parent)
        parent = parent.parent
    for ancestor in ancestors:
        available = set((ancestor / "cgroup.controllers").read_text().split())
        enabled = set((ancestor / "cgroup.subtree_control").read_text().split())
        for name in sorted((available if everything else wanted & available) - enabled):
            try:
                write_file(ancestor / "cgroup.subtree_control", f"+{name}")
            except OSError as exc:
                if name in wanted:
                    raise ContainerError(
                        f"cannot enable the {name} controller in {ancestor}: "
                        f"{os.strerror(exc.errno or 0).lower()}",
                        reason="cgroup",
                    ) from exc
