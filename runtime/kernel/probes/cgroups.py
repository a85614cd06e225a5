"""Probes of the cgroup layout: which trees are mounted and how a container can be frozen."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from runtime.kernel.features import Need, UnavailableError, probe

_GROUP = "cgroups"


class CgroupMount(NamedTuple):
    """One mounted cgroup tree: its mount point, version (1 or 2) and v1 controllers."""

    path: Path
    version: int
    controllers: tuple[str, ...]


def cgroup_mounts() -> list[CgroupMount]:
    """The cgroup trees mounted in our mount namespace.

    Source: /proc/self/mounts, man 5 proc; cgroup-v1 controllers are mount options there.
    """
    known = _v1_controllers()
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found.append(CgroupMount(Path(target), 2, ()))
        elif kind == "cgroup":
            names = tuple(name for name in options.split(",") if name in known)
            found.append(CgroupMount(Path(target), 1, names))
    return found


def _v1_controllers() -> frozenset[str]:
    """The controllers that the kernel has, /proc/cgroups."""
    lines = Path("/proc/cgroups").read_text().splitlines()
    return frozenset(line.split()[0] for line in lines if not line.startswith("#"))


@contextlib.contextmanager
def _scratch_cgroup(version: int, controller: str | None = None) -> Iterator[Path]:
    """An empty cgroup of our own in the first fitting tree."""
    for mount in cgroup_mounts():
        if mount.version == version and (controller is None or controller in mount.controllers):
            scratch = mount.path / f"wherry-check-{os.getpid()}"
            scratch.mkdir()
            try:
                yield scratch
            finally:
                scratch.rmdir()
            return
    wanted = "cgroup v2" if version == 2 else f"cgroup v1 {controller}"
    raise UnavailableError(f"no {wanted} tree is mounted")


@probe(
    "cgroups",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="knowing and limiting every process of a container",
    without_it="no container can be made",
)
def _cgroups() -> str:
    mounts = cgroup_mounts()
    versions = {mount.version for mount in mounts}
    if not versions:
        raise UnavailableError("no cgroup tree is mounted below /sys/fs/cgroup")
    if versions == {1, 2}:
        return "hybrid: v1 controllers beside a v2 tree"
    return f"v{versions.pop()}"


@probe(
    "freezer",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="pausing a container and stopping it for a checkpoint",
    without_it="no pause and no checkpoint",
)
def _freezer() -> str:
    reasons = []
    for version, controller, knob in ((2, None, "cgroup.freeze"), (1, "freezer", "freezer.state")):
        try:
            with _scratch_cgroup(version, controller) as scratch:
                if (scratch / knob).exists():
                    return f"v{version} ({knob})"
                reasons.append(f"the v{version} tree has no {knob}")
        except (OSError, UnavailableError) as exc:
            reasons.append(str(exc))
    raise UnavailableError("; ".join(reasons))


@probe(
    "cgroup-kill",
    group=_GROUP,
    used_for="killing every process of a container in one step",
    without_it="its processes are signalled one by one until none is left",
)
def _cgroup_kill() -> str:
    with _scratch_cgroup(2) as scratch:
        if not (scratch / "cgroup.kill").exists():
            raise UnavailableError("the v2 tree has no cgroup.kill")
    return ""


@probe(
    "cgroup-controllers",
    group=_GROUP,
    used_for="linux.resources of the configuration",
    without_it="a limit whose controller is missing is refused",
)
def _controllers() -> str:
    names: set[str] = set()
    for mount in cgroup_mounts():
        names.update(mount.controllers)
        if mount.version == 2:
            names.update((mount.path / "cgroup.controllers").read_text().split())
    if not names:
        raise UnavailableError("no mounted tree has a controller")
    return " ".join(sorted(names))
