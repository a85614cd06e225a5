"""/proc/sysvipc: the System V objects of a task's IPC namespace."""

from __future__ import annotations

import os
from pathlib import Path

from runtime.kernel.clone import CLONE_NEWIPC
from runtime.kernel.namespaces import setns

KINDS = {"shm": "shared memory segment", "sem": "semaphore set", "msg": "message queue"}


def objects(pid: int) -> list[tuple[str, int]]:
    """The (kind, id) of every System V object; kinds are the keys of `KINDS`.

    Source: man 7 sysvipc; the files show the namespace of whoever opens them, so this thread
    visits the task's for a moment.
    """
    here = os.open("/proc/thread-self/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/proc/{pid}/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(there, CLONE_NEWIPC)
        try:
            return [
                (kind, int(line.split()[1]))
                for kind in KINDS
                for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
            ]
        finally:
            setns(here, CLONE_NEWIPC)
    finally:
        os.close(here)
        os.close(there)
