"""A supervisor with services that end, are restarted and controlled.

``supervised.py DIRECTORY KIND``: KIND is ``runit`` or ``s6``. One service ends after a moment and
must be started anew each time, one works without end and is restarted on request, and one logs what
the second says, through a pipe that the supervisor keeps open.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import conduct

KIND = sys.argv[2]
SERVICES = conduct.directory / "services"

SHORT = """#!/bin/sh
echo "$$" >>{directory}/short
exec sleep 0.0{pause}
"""
STEADY = """#!/bin/sh
exec 2>&1
n=0
trap 'echo "end $n"; echo "$$ end $n" >>{directory}/lives; exit 0' TERM
echo "$$ begin" >>{directory}/lives
while :; do
    n=$((n + 1))
    echo "line $n"
    sleep 0.01
done
"""
LOG = """#!/bin/sh
exec cat >>{directory}/said
"""


def service(path: Path, text: str) -> None:
    path.mkdir(parents=True)
    run = path / "run"
    run.write_text(text.format(directory=conduct.directory, pause=2))
    run.chmod(0o755)


def control(action: str, name: str) -> None:
    """Ask the supervisor for something, and wait until it says that it is so."""
    path = str(SERVICES / name)
    if KIND == "runit":
        command = ["sv", "-w", "60", action, path]
    else:
        option = {"restart": "-r", "down": "-d", "up": "-u"}[action]
        awaited = {"restart": "-wr", "down": "-wD", "up": "-wu"}[action]
        command = ["s6-svc", awaited, "-T", "60000", option, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)


def lines(name: str) -> list[str]:
    path = conduct.directory / name
    return path.read_text().splitlines() if path.exists() else []


def wait_for_lines(name: str, count: int) -> None:
    conduct.wait_for(lambda: len(lines(name)) >= count, what=f"{count} lines in {name}")


def check_said(text: list[str], restarts: int) -> None:
    """Each life of the steady service counts from one without a gap, and says how far it came."""
    expected, lives = 1, 0
    for line in text:
        word, number = line.split()
        if word == "end":
            assert int(number) in (expected - 1, expected), (line, expected)
            expected, lives = 1, lives + 1
        else:
            assert re.fullmatch(r"line \d+", line) and int(number) == expected, (line, expected)
            expected += 1
    assert lives == restarts, (lives, restarts, lines("lives"))


def main() -> None:
    service(SERVICES / "short", SHORT)
    service(SERVICES / "steady", STEADY)
    service(SERVICES / "steady" / "log", LOG)
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
    scan = "runsvdir" if KIND == "runit" else "s6-svscan"
    supervisor = subprocess.Popen([scan, str(SERVICES)])
    conduct.wait_for(lambda: len(lines("short")) > 2 and lines("said"), what="the services")
    conduct.wait_for(lambda: lines("lives"), what="the steady service")
    conduct.ready()
    restarts = 0
    while not conduct.stopping():
        control("restart", "steady")
        restarts += 1
        seen = len(lines("short"))
        assert supervisor.poll() is None
        wait_for_lines("short", seen + 1)
        # Sooner it would end without a word.
        wait_for_lines("lives", 2 * restarts + 1)
    control("down", "steady")
    pids = lines("short")
    check_said(lines("said"), restarts + 1)
    assert len(pids) == len(set(pids)), "a pid came twice"
    # HUP: with its services.
    supervisor.send_signal(signal.SIGHUP if KIND == "runit" else signal.SIGTERM)
    supervisor.wait(60)
    conduct.done(f"{restarts} restarts, {len(pids)} lives at {time.strftime('%H:%M:%S')}")


main()
