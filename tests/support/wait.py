"""Waiting on conditions; a test never sleeps for a guessed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.1


def wait_until(predicate: Callable[[], T], timeout: float = 30.0, what: str = "") -> T:
    """Call *predicate* until it returns something true, and return that.

    Args:
        predicate: The condition.
        timeout: Seconds to wait at most.
        what: What is being waited for, for the message.

    Raises:
        AssertionError: The condition did not come true in time.
    """
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE_S
    while not (value := predicate()):
        if time.monotonic() > deadline:
            name = what or getattr(predicate, "__name__", "the condition")
            raise AssertionError(f"waited {timeout:g} s in vain for {name}")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)
    return value
