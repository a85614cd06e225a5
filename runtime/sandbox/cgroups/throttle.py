"""Slowing a container down for a while, by the processor time that its cgroup gets."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import ContainerError
from runtime.sandbox.cgroups.hierarchy import write_file

if TYPE_CHECKING:
    from runtime.sandbox.cgroups.manager import Cgroups

_PERIOD_US = 10_000  # short, so that a program that is held up is so for moments only
_LEAST_US = 1_000  # kernel/sched/core.c, min_cfs_quota_period

Setting = tuple[str, str]  # a file and its content


def throttle(cgroups: Cgroups, share: float) -> list[Setting]:
    """Allow a container a part of the processors.

    A limit that it has already is kept if it is the lower one.

    Args:
        cgroups: The container's.
        share: Part of all processors, 0 to 1.

    Returns:
        What `unthrottle` needs.

    Raises:
        ContainerError: There is no controller for it; reason ``no-cpu-controller``.
    """
    quota = max(_LEAST_US, int(share * _PERIOD_US * (os.cpu_count() or 1)))
    directory = cgroups.controllers().get("cpu")
    if directory is not None:
        before = [_read(directory / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
        if not _is_lower(before[0], before[1], quota):
            # A quota that does not fit the other period for a moment would be refused.
            write_file(directory / "cpu.cfs_quota_us", "-1")
            write_file(directory / "cpu.cfs_period_us", str(_PERIOD_US))
            write_file(directory / "cpu.cfs_quota_us", str(quota))
        return [
            (str(directory / "cpu.cfs_quota_us"), "-1"),
            (str(directory / "cpu.cfs_period_us"), before[1]),
            (str(directory / "cpu.cfs_quota_us"), before[0]),
        ]
    if cgroups.v2 is not None and (cgroups.v2 / "cpu.max").exists():
        path = cgroups.v2 / "cpu.max"
        limit = _read(path)
        allowed, period = limit.split()
        if not _is_lower(allowed, period, quota):
            write_file(path, f"{quota} {_PERIOD_US}")
        return [(str(path), limit)]
    raise ContainerError(
        "throttle: the container has no cgroup of the cpu controller", reason="no-cpu-controller"
    )


def unthrottle(before: list[Setting]) -> None:
    """Give a container back what it had; one that is gone needs nothing."""
    for path, value in before:
        with contextlib.suppress(FileNotFoundError):
            write_file(Path(path), value)


def _read(path: Path) -> str:
    return path.read_text().strip()


def _is_lower(quota: str, period: str, ours_us: int) -> bool:
    """Whether a limit allows less than ours."""
    if quota in ("max", "-1"):
        return False
    return int(quota) / int(period) < ours_us / _PERIOD_US
