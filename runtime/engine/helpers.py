"""Short-lived tasks inside the container that is being rebuilt: they stand in for the dead."""

from __future__ import annotations

from runtime.engine.files.restored import RestoredFiles
from runtime.engine.new_task import NewTask
from runtime.engine.restore_tree import end_task

WALL = 0x40000000  # __WALL, include/uapi/linux/wait.h


def make_helper(files: RestoredFiles, ns_pid: int = 0) -> NewTask:
    """Make a child of the init that nobody will miss; see `end_helper`.

    Args:
        files: Knows which ids are taken.
        ns_pid: The id it shall have; by default any that the image does not need.

    Raises:
        RestoreError: The id is taken.
    """
    if not ns_pid:
        ns_pid = next(n for n in range(2, len(files.ids) + 3) if n not in files.ids)
    helper = files.init.clone(0, 0, (ns_pid,))
    files.ids.add(ns_pid)
    return helper


def end_helper(files: RestoredFiles, helper: NewTask, status: int = 0) -> None:
    """Let a helper end with a wait status, and take its corpse away."""
    end_task(helper, status)
    files.init.call("wait4", helper.ns_pid, 0, WALL, 0)
    files.ids.discard(helper.ns_pid)
