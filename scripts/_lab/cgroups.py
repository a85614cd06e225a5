"""Each host lives in a cgroup of its own in every hierarchy, and sees it as the root."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .names import run, wait_until


@dataclass(frozen=True)
class CgroupMount:
    """One mounted cgroup hierarchy of this machine."""

    path: Path
    version: int
    options: str  # what mount(8) needs to name the hierarchy: "cpu,cpuacct", "none,name=systemd"


PASSING = "wherry-cgroup-"
"""So begin the names of directories at which wherry looks into a hierarchy for a moment."""


def cgroup_mounts() -> list[CgroupMount]:
    """Where this machine has its hierarchies."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        path = Path(before.split()[4])
        if path.name.startswith(PASSING):
            continue
        kind, _, supers = after.split()[:3]
        if kind == "cgroup2":
            found.append(CgroupMount(path, 2, ""))
        elif kind == "cgroup":
            options = [word for word in supers.split(",") if word not in ("rw", "ro", "xattr")]
            if any(word.startswith("name=") for word in options):
                options.insert(0, "none")
            found.append(CgroupMount(path, 1, ",".join(options)))
    return sorted(found, key=lambda mount: mount.path)


def make_cgroups(label: str) -> None:
    for mount in cgroup_mounts():
        directory = mount.path / label
        if mount.version == 2:
            delegate_controllers(mount.path)
        directory.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # v1: tasks may not enter while these are empty
            if mount.version == 1 and (directory / name).exists():
                (directory / name).write_text((mount.path / name).read_text())


def delegate_controllers(directory: Path) -> None:
    """Offer every controller to the children (v2); those that cannot be are left out."""
    for controller in (directory / "cgroup.controllers").read_text().split():
        # Busy or already given away elsewhere: the host then lacks it, as a smaller machine would.
        with contextlib.suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{controller}")


def enter_cgroups(label: str) -> None:
    """Move the caller into a host's cgroups."""
    for mount in cgroup_mounts():
        directory = mount.path / label
        # With controllers delegated, v2 lets processes live in leaves only.
        inner = directory / "init"
        target = inner if inner.exists() else directory
        (target / "cgroup.procs").write_text("0")


def cgroup_pids(label: str) -> set[int]:
    pids: set[int] = set()
    for mount in cgroup_mounts():
        for directory, _, _ in os.walk(mount.path / label):
            with contextlib.suppress(OSError):
                pids.update(map(int, (Path(directory) / "cgroup.procs").read_text().split()))
    return pids - {0}


def thaw_cgroups(label: str) -> None:
    """A frozen v1 task does not die of SIGKILL."""
    for mount in cgroup_mounts():
        for directory, _, names in os.walk(mount.path / label, topdown=False):
            for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                if name in names:
                    with contextlib.suppress(OSError):
                        (Path(directory) / name).write_text(word)


def remove_cgroups(label: str) -> None:
    for mount in cgroup_mounts():
        for directory, _, _ in os.walk(mount.path / label, topdown=False):
            wait_until(partial(removed, Path(directory)), 10.0, f"removing {directory}")


def removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def mount_cgroups(cgroups: list[CgroupMount], links: dict[Path, Path]) -> None:
    """Mount every hierarchy anew: from inside the cgroup namespace its root is the host's own."""
    base = Path("/sys/fs/cgroup")
    if not any(mount.path == base for mount in cgroups):
        run("mount", "-n", "-t", "tmpfs", "-o", "mode=755", "tmpfs", base)
    for mount in cgroups:
        mount.path.mkdir(parents=True, exist_ok=True)
        if mount.version == 2:
            run("mount", "-n", "-t", "cgroup2", "cgroup2", mount.path)
            (mount.path / "init").mkdir()
            (mount.path / "init" / "cgroup.procs").write_text("0")
            delegate_controllers(mount.path)
        else:
            run("mount", "-n", "-t", "cgroup", "-o", mount.options, "cgroup", mount.path)
    for link, target in links.items():
        link.symlink_to(target)
