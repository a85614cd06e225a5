"""Supervisors with services that end, are restarted and controlled: runit and s6.

``supervised.py DIRECTORY VOLUME``. Each has three services: one ends after a moment and
must be started anew each time, one works without end and is restarted on request, and one logs what
the second says, through a pipe that the supervisor keeps open.

runit's services lie on the volume, and only what never changes of them: what runit writes goes
through links to the job's directory, for that is what a checkpoint saves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import conduct

SHORT = """#!/bin/sh
echo "$$" >>{directory}/short
exec sleep 0.02
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


@dataclass
class Supervisor:
    """One supervisor with its services in a directory of its own."""

    kind: str
    restarts: int = 0

    def __post_init__(self) -> None:
        self.directory = conduct.directory / self.kind
        self.services = self.directory / "services"
        if self.kind == "runit":
            self.services = Path(sys.argv[2])
        self._service("short", SHORT)
        self._service("steady", STEADY)
        self._service("steady/log", LOG)
        scan = "runsvdir" if self.kind == "runit" else "s6-svscan"
        self.process = subprocess.Popen([scan, str(self.services)])
        self.wait_for_lines("short", 3)
        self.wait_for_lines("said", 1)

    def _service(self, name: str, text: str) -> None:
        run = self.services / name / "run"
        run.parent.mkdir(parents=True)
        if self.kind == "runit":
            state = self.directory / "supervise" / name
            state.mkdir(parents=True)
            (run.parent / "supervise").symlink_to(state / "supervise")
        run.write_text(text.format(directory=self.directory))
        run.chmod(0o755)

    def lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_lines(self, name: str, count: int) -> None:
        conduct.wait_for(lambda: len(self.lines(name)) >= count, what=f"{count} lines in {name}")

    def control(self, action: str) -> None:
        """Ask for something about the steady service, and wait until it is said to be so."""
        path = str(self.services / "steady")
        if self.kind == "runit":
            command = ["sv", "-w", "60", action, path]
        else:
            options = {"restart": ("-wr", "-r"), "down": ("-wD", "-d")}[action]
            command = ["s6-svc", "-T", "60000", *options, path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)

    def restart(self) -> None:
        """Restart the steady service, and see the other one restarted meanwhile."""
        seen = len(self.lines("short"))
        self.control("restart")
        self.restarts += 1
        assert self.process.poll() is None
        self.wait_for_lines("short", seen + 1)
        # Sooner it would end without a word.
        self.wait_for_lines("lives", 2 * self.restarts + 1)

    def finish(self) -> int:
        """End everything and check it; returns how often the short service has lived."""
        self.control("down")
        pids = self.lines("short")
        self._check_said()
        assert len(pids) == len(set(pids)), "a pid came twice"
        # HUP: with its services.
        self.process.send_signal(signal.SIGHUP if self.kind == "runit" else signal.SIGTERM)
        self.process.wait(60)
        return len(pids)

    def _check_said(self) -> None:
        """Each life counts from one without a gap, and says how far it came."""
        expected, lives = 1, 0
        for line in self.lines("said"):
            word, number = line.split()
            if word == "end":
                assert int(number) in (expected - 1, expected), (line, expected)
                expected, lives = 1, lives + 1
            else:
                assert word == "line" and int(number) == expected, (line, expected)
                expected += 1
        assert lives == self.restarts + 1, (lives, self.restarts, self.lines("lives"))


def main() -> None:
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
    supervisors = [Supervisor("runit"), Supervisor("s6")]
    conduct.ready()
    while not conduct.stopping():
        for supervisor in supervisors:
            supervisor.restart()
    lives = sum(supervisor.finish() for supervisor in supervisors)
    conduct.done(f"{sum(s.restarts for s in supervisors)} restarts, {lives} lives")


main()
