"""Getting the kernel ready for a move into a cgroup.

Whoever moves a process takes a lock that every fork and exit takes for reading
(cgroup_threadgroup_rwsem). To take it for writing, the kernel first waits for an RCU grace period,
some 10 ms, unless somebody has done so within about the last 15. So while the process that is to be
moved is still being made, a child moves itself to where it is, and waits in our place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

from runtime.kernel.copier import spawn_copier
from runtime.sandbox.cgroups.hierarchy import find_hierarchies

log = logging.getLogger(__name__)

_PAUSE_S = 0.008  # less than the kernel stays ready


@contextlib.contextmanager
def moving_soon() -> Iterator[None]:
    """For a block that makes a process and moves it into cgroups.

    Source: kernel/cgroup/cgroup.c and kernel/rcu/sync.c of Linux.
    """
    child = 0
    try:
        child = _move_itself()
    except (OSError, KeyError, IndexError) as exc:
        log.debug("moving into a cgroup will take a while: %s", exc)
    try:
        yield
    finally:
        if child:
            os.waitpid(child, 0)


@contextlib.contextmanager
def moving_at_once() -> Iterator[None]:
    """For a block that waits for a moment at which a process is to be moved at once, soon after it.

    A thread keeps the kernel ready meanwhile. It is gone when the block is left.
    """
    over = threading.Event()

    def keep_ready() -> None:
        while not over.wait(_PAUSE_S):
            with moving_soon():
                pass

    thread = threading.Thread(target=keep_ready, name="moving")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _move_itself() -> int:
    own = find_hierarchies()[-1].own_directory
    asking, answer = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(answer, b"0")  # whoever writes it
        where = os.open(own / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            return spawn_copier(asking, where)
        finally:
            os.close(where)
    finally:
        os.close(asking)
        os.close(answer)
