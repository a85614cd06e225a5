"""Programs of the distribution as containers under load, moved again and again.

Each job has a directory on the host's root, which its container sees and writes to through its
overlay. In it a job says and hears everything:

``ready``    the load runs: from now on it may be moved
``stop``     made by us: end the load, check everything, say what was found in ``done``
``done``     the check has passed; its text says how much was done
``log``      what a person would want to read when it has failed
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command import Wherry
from tests.support.jobs import Job, move_often
from tests.support.wait import wait_until
from tests.support.workloads import WORKLOADS

PROGRAMS = WORKLOADS / "programs"
MOVES = int(os.environ.get("WHERRY_MOVES") or 20)
UNDER_LOAD = [pytest.mark.slow, pytest.mark.timeout(300 + 15 * MOVES)]

# Debian packages by the tool that stands for them; scripts/_bootstrap installs the same.
PACKAGES = {
    "go": "golang-go",
    "java": "default-jdk-headless",
    "node": "nodejs",
    "redis-server": "redis-server",
    "redis-benchmark": "redis-tools",
    "nginx": "nginx-light",
    "pgbench": "postgresql",
    "s6-svscan": "s6",
    "runsvdir": "runit",
    "vi": "vim-tiny",
}
_PLACES = os.pathsep.join(["/usr/local/sbin", "/usr/sbin", "/sbin"])


def need(*tools: str) -> None:
    """Skip the test where a program is missing, and say which package has it."""
    path = os.environ.get("PATH", os.defpath) + os.pathsep + _PLACES
    missing = [PACKAGES.get(tool, tool) for tool in tools if shutil.which(tool, path=path) is None]
    if missing:
        pytest.skip(f"needs the Debian packages {' '.join(missing)}; scripts/test installs them")


@dataclass
class Load:
    """A job under load in a container that changes."""

    job: Job

    @property
    def directory(self) -> Path:
        """The job's directory, as it knows it."""
        return self.job.directory

    def start(self, *command: str | Path) -> None:
        """Run the job; returns when the load is there."""
        # Its output goes to its own file: descriptors from outside are another matter.
        quiet = ("/bin/sh", "-c", 'exec >>"$0/log" 2>&1 </dev/null; exec "$@"', self.directory)
        self.job.start(*quiet, *command)
        wait_until(lambda: self._over() or self.exists("ready"), 60, "the load to be there")
        self._still_there()

    def move_often(self, longest_pause_s: float, times: int = MOVES) -> None:
        """Checkpoint and restore it *times* times, after a random time each."""
        try:
            move_often(self.job, times, longest_pause_s=longest_pause_s)
        except BaseException:
            print(self.last_words())
            raise

    def finish(self, timeout: float = 120) -> str:
        """Let it end and check itself; returns what it says it has done."""
        self._still_there()
        pid = json.loads(self.job.wherry("state", self.job.cid).stdout)["pid"]
        Path(f"/proc/{pid}/root{self.directory}/stop").touch()
        try:
            self.job.finish(timeout)
        except BaseException:
            print(self.last_words())
            raise
        return self.job.file("done").read_text()

    def exists(self, name: str) -> bool:
        """Whether the job has made this file by now."""
        return self.job.file(name).exists()

    def last_words(self) -> str:
        """The end of the job's log."""
        log = self.job.file("log")
        return log.read_text(errors="replace")[-8000:] if log.exists() else "it has no log"

    def _over(self) -> bool:
        return self.job.wherry.status(self.job.cid) == "stopped"

    def _still_there(self) -> None:
        assert not self._over(), f"the job has ended by itself:\n{self.last_words()}"


@contextmanager
def load(wherry: Wherry, scratch: Path) -> Iterator[Load]:
    """A job in no container yet; whatever has it at the end is deleted."""
    directory = scratch / "job"
    directory.mkdir()
    directory.chmod(0o777)  # servers change their user
    job = Job(wherry, scratch, directory)
    try:
        yield Load(job)
    finally:
        for cid in (job.cid, f"job-{job.generation - 1}"):
            wherry("delete", "--force", cid, check=False)


def python_program(name: str) -> tuple[str, ...]:
    """The command that runs one of our own drivers with this interpreter."""
    return sys.executable, str(PROGRAMS / name)
