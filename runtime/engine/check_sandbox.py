"""What a sandbox holds beside its tasks, and that cannot be saved yet: changed mounts."""

from __future__ import annotations

import os

from runtime.engine.context import DumpContext
from runtime.kernel.mountinfo import read_mounts

REFUSED = (
    ("ipc-mqueue", "POSIX message queues"),
    ("mount-added", "mounts that the program made or removed itself"),
    ("mount-removed", "mounts that the program made or removed itself"),
)


def check_sandbox(context: DumpContext) -> None:
    """Note changed mounts and POSIX message queues."""
    before = context.target.mounts
    if before is None:
        return
    mounts = read_mounts(context.target.init_pid)
    now = [(mount.point, mount.fstype) for mount in mounts]
    for point, fstype in now:
        if now.count((point, fstype)) > before.count((point, fstype)):
            context.refuse(
                "mount-added", f"mount {point} ({fstype})", "was made after the container's start"
            )
    for point, fstype in before:
        if (point, fstype) not in now:
            context.refuse(
                "mount-removed", f"mount {point} ({fstype})", "was removed after the start"
            )
    for mount in mounts:
        if mount.fstype == "mqueue":
            for name in os.listdir(f"/proc/{context.target.init_pid}/root{mount.point}"):
                context.refuse("ipc-mqueue", f"message queue /{name}", "is a POSIX message queue")
