"""The time as the scheduler sees it, so that two hours of it can pass in a minute."""

from __future__ import annotations

import threading
import time
from typing import Protocol

_LOOK_AGAIN_S = 20.0


class Clock(Protocol):
    """Tells the time and waits for it."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""

    def wait(self, until: float, wake: threading.Event) -> None:
        """Return at *until*, or earlier: when *wake* is set, or for no reason at all."""


class SystemClock:
    """The host's clock."""

    def now(self) -> float:
        """See `Clock`."""
        return time.time()

    def wait(self, until: float, wake: threading.Event) -> None:
        """See `Clock`."""
        # A suspended host's monotonic time stands still, and the wall clock may be set: look often.
        wake.wait(max(0.0, min(until - time.time(), _LOOK_AGAIN_S)))
