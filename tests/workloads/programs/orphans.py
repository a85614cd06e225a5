"""Below a small init: children that end, orphans that the init has to reap, signals it forwards.

``orphans.py DIRECTORY``
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType

import conduct

# A shell that leaves an orphan behind, which outlives it and says when it ends.
ORPHAN = '(sleep 0.0$1; echo "$1" >>"$0/orphans") & (exit $1) & exit $1'
heard: list[int] = []


def hear(signum: int, _frame: FrameType | None) -> None:
    heard.append(signum)


def ask_init() -> None:
    """Send the init a signal that it has to forward to us."""
    before = len(heard)
    os.kill(1, signal.SIGUSR1)
    conduct.wait_for(lambda: len(heard) > before, what="the forwarded signal")


def stop_and_go() -> None:
    """Job control: stop a child, see it stopped, let it go on, see its end."""
    child = os.posix_spawn("/bin/sleep", ["sleep", "0.02"], dict(os.environ))
    os.kill(child, signal.SIGSTOP)
    pid, status = os.waitpid(child, os.WUNTRACED)
    assert pid == child, (pid, status)
    if os.WIFSTOPPED(status):
        assert os.WSTOPSIG(status) == signal.SIGSTOP
        os.kill(child, signal.SIGCONT)
        pid, status = os.waitpid(child, 0)
    assert (pid, status) == (child, 0), status


def zombies() -> list[str]:
    """What has ended, descends from the init, and was not waited for."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if stat.rpartition(")")[2].split()[0] == "Z":
                found.append(stat)
    return found


def main() -> None:
    signal.signal(signal.SIGUSR1, hear)
    rounds = 0
    while not conduct.stopping():
        number = rounds % 10
        shell = subprocess.Popen(["/bin/sh", "-c", ORPHAN, conduct.directory, str(number)])
        unwaited = subprocess.Popen(["/bin/true"])
        stop_and_go()
        assert shell.wait(60) == number, shell.returncode
        assert unwaited.wait(60) == 0
        ask_init()
        rounds += 1
        if rounds == 5:
            conduct.ready()
    lines = conduct.directory / "orphans"
    conduct.wait_for(
        lambda: len(lines.read_text().splitlines()) >= rounds, what="the orphans' words"
    )
    found = sorted(map(int, lines.read_text().split()))
    assert found == sorted(n % 10 for n in range(rounds)), f"{len(found)} of {rounds}"
    conduct.wait_for(lambda: not zombies(), what=f"the end of {zombies()}")
    assert len(heard) == rounds, (heard, rounds)
    conduct.done(f"{rounds} rounds at {time.strftime('%H:%M:%S')}")


main()
