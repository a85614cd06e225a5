"""Freeze and thaw a cgroup with everything below it, cgroup v2's way and v1's."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

from runtime.errors import ContainerError
from runtime.sandbox.cgroups.hierarchy import write_file

_V1_POLL_S = 0.001


def _timed_out(directory: Path, timeout_s: float) -> ContainerError:
    return ContainerError(
        f"{directory}: not frozen after {timeout_s:g} s; a task is in an uninterruptible wait",
        reason="freeze-timeout",
    )


def begin_freeze_v2(directory: Path) -> None:
    """Ask for the freeze, without waiting for it."""
    write_file(directory / "cgroup.freeze", "1")


def begin_freeze_v1(directory: Path) -> None:
    """Ask for the freeze, without waiting for it."""
    write_file(directory / "freezer.state", "FROZEN")


def freeze_v2(directory: Path, timeout_s: float) -> None:
    """Freeze and wait until the kernel reports it.

    Raises:
        ContainerError: It took longer than *timeout_s*; the cgroup is thawed again.
    """
    begin_freeze_v2(directory)
    deadline = time.monotonic() + timeout_s
    fd = os.open(directory / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        # The file becomes readable "with priority" at each change since it was last read
        while b"frozen 1" not in os.pread(fd, 4096, 0):
            left = deadline - time.monotonic()
            if left <= 0:
                write_file(directory / "cgroup.freeze", "0")
                raise _timed_out(directory, timeout_s)
            poll.poll(left * 1000)
    finally:
        os.close(fd)


def thaw_v2(directory: Path) -> None:
    """Thaw; the tasks run when this returns or soon after."""
    write_file(directory / "cgroup.freeze", "0")


def is_frozen_v2(directory: Path) -> bool:
    """Whether all tasks are frozen."""
    return "frozen 1" in (directory / "cgroup.events").read_text()


def is_asked_for_v2(directory: Path) -> bool:
    """Whether tasks are to be frozen, if they are not yet."""
    return (directory / "cgroup.freeze").read_text().strip() == "1"


def freeze_v1(directory: Path, timeout_s: float) -> None:
    """Freeze and wait until the kernel reports it.

    Raises:
        ContainerError: It took longer than *timeout_s*; the cgroup is thawed again.
    """
    state = directory / "freezer.state"
    deadline = time.monotonic() + timeout_s
    # A task that is being forked may miss the first request, so it is repeated
    while True:
        write_file(state, "FROZEN")
        if state.read_text().strip() == "FROZEN":
            return
        if time.monotonic() >= deadline:
            write_file(state, "THAWED")
            raise _timed_out(directory, timeout_s)
        time.sleep(_V1_POLL_S)


def thaw_v1(directory: Path) -> None:
    """Thaw."""
    write_file(directory / "freezer.state", "THAWED")


def is_frozen_v1(directory: Path) -> bool:
    """Whether all tasks are frozen."""
    return (directory / "freezer.state").read_text().strip() == "FROZEN"


def is_asked_for_v1(directory: Path) -> bool:
    """Whether tasks are to be frozen, if they are not yet."""
    return (directory / "freezer.state").read_text().strip() != "THAWED"
