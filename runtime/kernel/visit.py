"""A visit to another task's namespace, by this thread only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from runtime.kernel.clone import CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWUTS
from runtime.kernel.namespaces import setns

_KINDS = {
    "net": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "cgroup": CLONE_NEWCGROUP,
}


@contextlib.contextmanager
def visiting(pid: int, kind: str) -> Iterator[None]:
    """Be in the namespace of *kind* ("net", "ipc", "uts", "cgroup") of a task for a ``with`` block.

    Raises:
        PermissionError: No CAP_SYS_ADMIN over it.

    Source: man 2 setns.
    """
    with visiting_path(f"/proc/{pid}/ns/{kind}", kind):
        yield


@contextlib.contextmanager
def visiting_path(path: str, kind: str) -> Iterator[None]:
    """The same, for a namespace that a file of nsfs stands for."""
    here = os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(there, _KINDS[kind])
        finally:
            os.close(there)
        try:
            yield
        finally:
            setns(here, _KINDS[kind])
    finally:
        os.close(here)
