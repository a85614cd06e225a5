"""SIGKILL for everybody who has a part in a migration: one copy runs, or can be run by one command.

Cut lines and killed receivers of migrations with rounds are in test_migrate.py, those of the pages
in test_postcopy.py; here are the other victims, in the modes in which they do more.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.migrate.test_migrate import Job, _plan
from tests.support.lab import Lab
from tests.support.wait import wait_until


@pytest.fixture
def job(lab: Lab) -> Iterator[Job]:
    """The job, not started; removed at the end wherever it is."""
    yield Job(lab)
    for host in ("a", "b"):
        for cid in lab.containers(host):
            lab.run(host, "wherry", "delete", "--force", cid, check=False)


def _record(job: Job, host: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        job.lab.path(host, "/run/wherry/job/state.json").read_text()
    )
    return found


def _monitor(host: str) -> Callable[[Job], tuple[str, int]]:
    def find(job: Job) -> tuple[str, int]:
        return host, _record(job, host)["monitor"]["pid"]  # type: ignore[index]

    return find


def _filler(number: int) -> Callable[[Job], tuple[str, int]]:
    def find(job: Job) -> tuple[str, int]:
        return "b", _record(job, "b")["extra"]["filling"][number]["pid"]  # type: ignore[index]

    return find


def _worker(job: Job) -> tuple[str, int]:
    return "a", max(job.lab.pids("a", "wherry migrate"))


def _builder(job: Job) -> tuple[str, int]:
    return "b", max(job.lab.pids("b", "wherry receive"))


def _source(job: Job) -> tuple[str, int]:
    return "a", min(job.lab.pids("a", "wherry migrate"))


VICTIMS = {
    "source": _source,
    "worker": _worker,
    "monitor-there": _monitor("b"),
    "monitor-here": _monitor("a"),
    "builder": _builder,
    "pager": _filler(0),
    "guard": _filler(1),
}
TAKE_BACK = ("--abort", "--lose-progress")


@pytest.mark.parametrize(
    ("mode", "message", "victim", "command", "runs_at"),
    [
        ("hybrid", "round-staged", "source", (), "a"),
        ("hybrid", "rounds-end", "builder", (), "a"),
        ("stop", "prepared", "worker", (), "a"),
        ("precopy", "prepared", "monitor-here", (), "b"),
        ("precopy", "prepared", "monitor-there", (), "b"),
        ("postcopy", "prepared", "source", (), "a"),
        ("postcopy", "prepared", "pager", (), "a"),
        ("hybrid", "running", "source", ("--resume",), "b"),
        ("postcopy", "page-content", "pager", TAKE_BACK, "a"),
        ("postcopy", "page-content", "guard", (), "b"),
        ("postcopy", "page-content", "monitor-there", (), "b"),
        ("postcopy", "all-here", "source", ("--resume",), "b"),
    ],
    ids=lambda value: "+".join(value) or "none" if isinstance(value, tuple) else value,
)
def test_one_copy_runs(
    job: Job,
    tmp_path: Path,
    mode: str,
    message: str,
    victim: str,
    command: tuple[str, ...],
    runs_at: str,
) -> None:
    job.start("a")
    plan = _plan(tmp_path, message, "before", "hold")
    words = ("wherry", "migrate", "--mode", mode, *plan, "job", "b")
    call = job.lab.popen("a", *words, stderr=subprocess.PIPE)
    wait_until((tmp_path / "held").exists)
    host, pid = VICTIMS[victim](job)
    job.lab.run(host, "kill", "-KILL", str(pid))
    wait_until(lambda: not job.lab.path(host, f"/proc/{pid}/exe").exists(), what="its end")
    if victim == "pager":
        wait_until(lambda: job.lab.containers("b") == {"job": "stopped"}, what="its end over there")
    (tmp_path / "held").unlink()
    _, said = call.communicate(timeout=60)
    assert "Traceback" not in said
    _never_two(job)
    if command:
        # Without it, neither copy is lost and neither of them is alive.
        assert job.lab.containers("a") == {"job": "paused"}
        job.lab.run("a", "wherry", "migrate", *command, "job")
    assert job.only_at(runs_at)


def _never_two(job: Job) -> None:
    found = [job.lab.containers(host).get("job") for host in ("a", "b")]
    assert found.count("running") <= 1, found


@pytest.mark.parametrize(
    ("mode", "message", "when", "what", "runs_at"),
    [
        ("postcopy", "data-end", "before", "kill", "a"),
        ("hybrid", "commit", "after", "kill", "b"),
        ("postcopy", "commit", "after", "cut", "b"),
    ],
)
def test_the_receiver_is_killed_or_the_line_cut(
    job: Job, tmp_path: Path, mode: str, message: str, when: str, what: str, runs_at: str
) -> None:
    job.start("a")
    plan = _plan(tmp_path, message, when, what)
    done = job.lab.run("a", "wherry", "migrate", "--mode", mode, *plan, "job", "b", check=False)
    assert "Traceback" not in done.stderr and not (tmp_path / "plan").exists()
    _never_two(job)
    assert job.only_at(runs_at)
