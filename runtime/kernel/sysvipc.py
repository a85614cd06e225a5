"""/proc/sysvipc: the System V objects of a task's IPC namespace."""

from __future__ import annotations

from pathlib import Path

from runtime.kernel.visit import visiting

KINDS = {"shm": "shared memory segment", "sem": "semaphore set", "msg": "message queue"}


def objects(pid: int) -> list[tuple[str, int]]:
    """The (kind, id) of every System V object; kinds are the keys of `KINDS`.

    Source: man 7 sysvipc; the files show the namespace of whoever opens them, so this thread
    visits the task's for a moment.
    """
    with visiting(pid, "ipc"):
        return [
            (kind, int(line.split()[1]))
            for kind in KINDS
            for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
        ]
