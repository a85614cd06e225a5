"""While a program stands still for us, we come first.

On a busy host most of a short freeze is time in which others have the processor. So the thread that
works on a frozen container that is to go on is scheduled as a real-time one, of the lowest
priority, until it goes on. It never waits for anything there but for the kernel, for the tasks
themselves and for its own helpers, which inherit this.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

log = logging.getLogger(__name__)


@contextlib.contextmanager
def urgent() -> Iterator[None]:
    """Run the calling thread ahead of all that is not real-time, if we may.

    Source: man 7 sched (SCHED_RR). The kernel leaves others a twentieth of each processor.
    """
    before = os.sched_getscheduler(0)
    if before != os.SCHED_OTHER:
        yield  # somebody has thought about it
        return
    try:
        os.sched_setscheduler(
            0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
        )
    except OSError as exc:  # no CAP_SYS_NICE, or a cgroup without real-time budget
        log.debug("not urgent: %s", exc)
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
