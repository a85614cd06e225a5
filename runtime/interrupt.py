"""Being told to stop: SIGINT and SIGTERM as an exception.

A command that is interrupted in the middle of its work unwinds like after any other failure, so
that the workload resumes and temporary files go away. Only the first signal unwinds; while the
unwinding runs, further ones would only interrupt the tidying up and are ignored.
"""

from __future__ import annotations

import signal
from types import FrameType


class Interrupted(BaseException):
    """The process was told to end by a signal.

    Attributes:
        signum: The signal's number; the conventional exit status is 128 + *signum*.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


_armed = True


def _raise_once(signum: int, _frame: FrameType | None) -> None:
    global _armed  # noqa: PLW0603 - signal handlers are global to the process
    if _armed:
        _armed = False
        raise Interrupted(signum)


def raise_on_signals(*signums: int) -> None:
    """Let the first of these signals raise Interrupted in the main thread."""
    global _armed  # noqa: PLW0603
    _armed = True
    for signum in signums or (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _raise_once)
