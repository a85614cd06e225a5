"""What every driver in Python needs: its directory, when to end, how to say that all was well.

A driver gets its directory as its first argument; ``tests/support/programs.py`` has the files'
meanings.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


def say(name: str, text: str) -> None:
    """Write a file whose content appears at once."""
    temporary = directory / f".{name}"
    temporary.write_text(text)
    temporary.rename(directory / name)


def ready() -> None:
    """The load is there."""
    say("ready", "")


def done(text: str) -> None:
    """Everything has been checked; *text* says how much was done."""
    say("done", text)


def stopping() -> bool:
    """Whether it is time to end."""
    return os.path.exists(directory / "stop")


def wait_for(condition: Callable[[], object], seconds: float = 60, what: str = "") -> None:
    """Poll until *condition* is true; the time spent frozen does not count much."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what or condition}"
        time.sleep(0.005)
