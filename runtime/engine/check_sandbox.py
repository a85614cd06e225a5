"""What a sandbox holds beside its tasks, and that cannot be saved yet: message queues."""

from __future__ import annotations

import os

from runtime.engine.context import DumpContext
from runtime.kernel.mountinfo import read_mounts

REFUSED = (("ipc-mqueue", "POSIX message queues"),)


def check_sandbox(context: DumpContext) -> None:
    """Note POSIX message queues."""
    mounts = read_mounts(context.target.init_pid)
    for mount in mounts:
        if mount.fstype == "mqueue":
            for name in os.listdir(f"/proc/{context.target.init_pid}/root{mount.point}"):
                context.refuse("ipc-mqueue", f"message queue /{name}", "is a POSIX message queue")
