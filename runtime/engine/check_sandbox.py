"""What a sandbox holds beside its tasks, and that cannot be saved yet: mounts, IPC objects."""

from __future__ import annotations

import os

from runtime.engine.context import DumpContext
from runtime.kernel import sysvipc
from runtime.kernel.mountinfo import read_mounts

REFUSED = (
    ("ipc-shm", "System V objects and POSIX message queues"),
    ("ipc-sem", "System V objects and POSIX message queues"),
    ("ipc-msg", "System V objects and POSIX message queues"),
    ("ipc-mqueue", "System V objects and POSIX message queues"),
    ("mount-added", "mounts that the program made or removed itself"),
    ("mount-removed", "mounts that the program made or removed itself"),
)


def check_sandbox(context: DumpContext) -> None:
    """Note changed mounts, System V objects and POSIX message queues."""
    _check_mounts(context)
    _check_ipc(context)


def _check_mounts(context: DumpContext) -> None:
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


def _check_ipc(context: DumpContext) -> None:
    pid = context.target.init_pid
    if os.readlink(f"/proc/{pid}/ns/ipc") == os.readlink("/proc/self/ns/ipc"):
        return  # the host's own objects; those that are mapped are refused as mappings
    for kind, number in sysvipc.objects(pid):
        context.refuse(
            f"ipc-{kind}",
            f"{sysvipc.KINDS[kind]} {number}",
            "is a System V object, which wherry cannot save",
        )
