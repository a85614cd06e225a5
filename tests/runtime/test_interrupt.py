"""Interruptions reach the code that can deal with them."""

from __future__ import annotations

import signal
import subprocess
import sys

_PROGRAM = """
import os, signal, sys, time
from runtime.interrupt import Interrupted, raise_on_signals, too_late

class Destructor:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))

raise_on_signals()
if sys.argv[1] == "too-late":
    too_late()
try:
    Destructor()
    time.sleep(30 if sys.argv[1] == "heard" else 0.01)
    print("not interrupted")
except Interrupted as exc:
    print("interrupted by", exc.signum)
"""


def _say(how: str) -> tuple[str, str]:
    command = [sys.executable, "-c", _PROGRAM, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip(), done.stderr


def test_an_interruption_in_a_destructor_is_not_lost() -> None:
    assert _say("heard") == (f"interrupted by {signal.SIGTERM:d}", "")


def test_nothing_interrupts_what_is_done() -> None:
    assert _say("too-late") == ("not interrupted", "")
