"""Being told to stop: SIGINT and SIGTERM as an exception.

A command that is interrupted in the middle of its work unwinds like after any other failure, so
that the workload resumes and temporary files go away. Only the first signal unwinds; while the
unwinding runs, further ones would only interrupt the tidying up and are ignored.

A handler may run where the interpreter ignores exceptions: in a destructor, or in what the standard
library does around a fork. Then it is raised again, until it is heard.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


_SOON_S = 0.001


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
    sys.unraisablehook = _raise_again
    for signum in signums or (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _raise_once)


def too_late() -> None:
    """From now on nothing raises Interrupted: what was to be done is done."""
    global _armed  # noqa: PLW0603
    _armed = False


def _raise_again(unraisable: UnraisableHookArgs) -> None:
    ignored = unraisable.exc_value
    if not isinstance(ignored, Interrupted):
        sys.__unraisablehook__(unraisable)
        return

    def again(_signum: int, _frame: FrameType | None) -> None:
        raise Interrupted(ignored.signum)

    # Soon, because what is raised in here is ignored as well.
    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, _SOON_S)
