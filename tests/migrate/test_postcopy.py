"""Moving a running job that asks for its memory afterwards, and what if nobody answers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.migrate.test_migrate import Job, _plan
from tests.support.lab import Lab
from tests.support.wait import wait_until
from tests.support.workloads import command_of

POSTCOPY = ("--mode", "postcopy")
PAGES_LOST, UNDECIDED = 40, 46


@pytest.fixture
def job(lab: Lab) -> Iterator[Job]:
    """The job, not started; removed at the end wherever it is. No handover is on record."""
    for host in ("a", "b"):
        lab.run(host, "rm", "-f", "/run/wherry/.handover.json")
    yield Job(lab)
    for host in ("a", "b"):
        for cid in lab.containers(host):
            lab.run(host, "wherry", "delete", "--force", cid, check=False)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the tap finds its plan."""
    return tmp_path


def _nothing_is_noted(job: Job) -> bool:
    script = "cat /run/wherry/.handover.json 2>/dev/null || :"
    notes = [job.lab.run(host, "sh", "-c", script).stdout.strip() for host in ("a", "b")]
    return set(notes) <= {"", "{}"}


def test_to_and_fro(job: Job) -> None:
    job.start("a", 32)
    for source, target in (("a", "b"), ("b", "a")):
        before = job.findings(source)["steps"]
        report = job.migrate(source, target, *POSTCOPY)
        assert job.only_at(target)
        assert job.findings(target)["steps"] > before
        parts = ("freeze_ns", "transfer_ns", "restore_ns", "thaw_ns")
        assert sum(report[part] for part in parts) <= report["downtime_ns"] < 30e9
        assert report["mode"] == "postcopy" and report["rounds"] == []
        assert report["later_bytes"] > 32 << 20 > report["last_bytes"]
        assert report["memory_bytes"] == report["later_bytes"] + report["last_bytes"]
        assert report["faults"] > 0 < report["complete_ns"]
    assert _nothing_is_noted(job)


@pytest.mark.parametrize("mode", ["postcopy", "hybrid"])
def test_memory_changes_while_it_comes(lab: Lab, directory: Path, mode: str) -> None:
    """Forks, mremap, munmap, MADV_DONTNEED; the program checks every page of it."""
    control = directory / "control"
    control.mkdir()
    (control / "restless").touch()  # so that there is something left after the rounds
    program = (*command_of("lazy/changes.c"), str(control))
    lab.run("a", "wherry", "do", "--id", "job", "--detach", "--", *program)
    upper = f"/run/wherry/job/overlay/upper{control}"
    try:
        wait_until(lambda: lab.path("a", f"{upper}/ready").exists(), 30, "memory filled")
        plan = _plan(directory, "prepared", "before", "hold")
        words = ("wherry", "migrate", "--json", "--mode", mode, *plan, "job", "b")
        call = lab.popen("a", *words, stdout=subprocess.PIPE)
        wait_until((directory / "held").exists)
        (control / "go").touch()
        (directory / "held").unlink()
        said, _ = call.communicate(timeout=60)
        assert call.returncode == 0
        report = json.loads(said)
        assert report["later_bytes"] > 20 << 20
        assert (report["staged_bytes"] > 80 << 20) is (mode == "hybrid")
        result = lab.path("b", f"{upper}/result")
        wait_until(result.exists, 60, "the program's end")
        assert result.read_text() == "ok"
    finally:
        for host in ("a", "b"):
            lab.run(host, "wherry", "delete", "--force", "job", check=False)


@pytest.mark.parametrize(
    ("message", "when", "what"),
    [
        ("running", "before", "cut"),
        ("pages", "before", "cut"),
        ("page-request", "after", "cut"),
        ("page-content", "before", "kill"),
        ("all-here", "before", "cut"),
        ("all-here", "after", "kill"),
    ],
)
def test_the_line_breaks(job: Job, directory: Path, message: str, when: str, what: str) -> None:
    job.start("a")
    done = job.lab.run(
        "a",
        *("wherry", "migrate", *POSTCOPY, *_plan(directory, message, when, what), "job", "b"),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (directory / "plan").exists()
    assert job.only_at("b")


def _hold_pages(job: Job, directory: Path, *options: str) -> subprocess.Popen[str]:
    """Migrate until it runs at the destination, and the first page is on its way."""
    job.start("a")
    plan = _plan(directory, "page-content", "before", "hold")
    call = job.lab.popen(
        *("a", "wherry", "migrate", *POSTCOPY, *plan, *options, "job", "b"), stderr=subprocess.PIPE
    )
    wait_until((directory / "held").exists)
    assert job.lab.containers("a") == {"job": "paused"}
    assert job.lab.containers("b") == {"job": "running"}
    return call


def _settle(job: Job, *options: str) -> tuple[int, str]:
    done = job.lab.run("a", "wherry", "migrate", *options, "job", check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def _killed(job: Job) -> dict[str, Any]:
    """Why the copy at the destination was killed, as soon as it was."""
    wait_until(lambda: job.lab.containers("b") == {"job": "stopped"}, 30, "its end")
    killed: dict[str, Any] = job.lab.json("b", "wherry", "state", "job")["killed"]
    return killed


def _is_taken_back(job: Job) -> None:
    """What is dead over there goes on here when somebody says so, and not before."""
    assert job.lab.containers("a") == {"job": "paused"}
    code, said = _settle(job, "--status")
    assert code == 0 and "it is dead there" in said and "--lose-progress" in said
    for option in ("--resume", "--abort"):
        code, said = _settle(job, option)
        assert code == PAGES_LOST and "pages-lost" in said and "--lose-progress" in said
        assert "it has run on b since" in said
        assert job.lab.containers("a") == {"job": "paused"}
    code, said = _settle(job, "--abort", "--lose-progress")
    assert code == 0 and "goes on here" in said
    assert job.only_at("a")
    assert _nothing_is_noted(job)


def test_the_pager_is_killed(job: Job, directory: Path) -> None:
    call = _hold_pages(job, directory)
    state = json.loads(job.lab.path("b", "/run/wherry/job/state.json").read_text())
    job.lab.run("b", "kill", "-KILL", str(state["extra"]["filling"][0]["pid"]))
    assert _killed(job)["reason"] == "pager-killed"
    (directory / "held").unlink()
    _, said = call.communicate(timeout=60)
    assert call.returncode == PAGES_LOST and "pages-lost" in said and "Traceback" not in said
    _is_taken_back(job)


@pytest.mark.parametrize("option", ["--resume", "--abort"])
def test_the_source_is_killed(job: Job, directory: Path, option: str) -> None:
    """It runs over there: to take it back is too late, and both words do the same."""
    call = _hold_pages(job, directory)
    call.kill()
    call.communicate()
    (directory / "held").unlink()
    code, said = _settle(job, "--status")
    assert code == 0 and "needs the rest of its memory" in said
    assert job.lab.run("a", "wherry", "resume", "job", check=False).returncode != 0
    assert job.lab.containers("a") == {"job": "paused"}
    code, said = _settle(job, option)
    assert code == 0 and "removed here" in said
    assert job.only_at("b")
    assert _nothing_is_noted(job)


def test_it_was_removed_before_all_had_come(job: Job, directory: Path) -> None:
    """Nobody can tell any more how far it had come there: the past is not run again unasked."""
    call = _hold_pages(job, directory)
    call.kill()
    call.communicate()
    (directory / "held").unlink()
    job.lab.run("b", "wherry", "delete", "--force", "job")
    _is_taken_back(job)


@pytest.mark.parametrize("removed", [True, False])
def test_the_other_host_has_forgotten_it(job: Job, directory: Path, removed: bool) -> None:
    """It was set up anew: what it had said before is not unsaid by that. Or only its notes went."""
    job.start("a")
    plan = _plan(directory, "running", "before", "hold")
    call = job.lab.popen("a", "wherry", "migrate", "--mode", "stop", *plan, "job", "b")
    wait_until((directory / "held").exists)
    call.kill()
    call.wait()
    (directory / "held").unlink()
    job.lab.run("b", "rm", "/run/wherry/.handover.json")
    if not removed:
        code, said = _settle(job, "--abort", "--lose-progress")
        assert code == 0 and "removed here" in said
        assert job.only_at("b")
        return
    job.lab.run("b", "wherry", "delete", "--force", "job")
    for option in ("--resume", "--abort"):
        code, said = _settle(job, option)
        assert code == UNDECIDED and "handover-forgotten" in said and "--lose-progress" in said
        assert job.lab.containers("a") == {"job": "paused"}
    code, said = _settle(job, "--abort", "--lose-progress")
    assert code == 0 and "goes on here" in said
    assert job.only_at("a")


def test_nobody_comes_back(job: Job, directory: Path) -> None:
    call = _hold_pages(job, directory, "--retry-for", "0")
    call.kill()
    call.communicate()
    (directory / "held").unlink()
    assert _killed(job)["reason"] == "pages-lost"
    _is_taken_back(job)


def test_the_frozen_one_is_gone(job: Job, directory: Path) -> None:
    """Its memory with it: what runs over there is killed, and never goes on with zeros."""
    call = _hold_pages(job, directory)
    job.lab.run("a", "wherry", "delete", "--force", "job")
    (directory / "held").unlink()
    _, said = call.communicate(timeout=60)
    assert call.returncode == PAGES_LOST and "Traceback" not in said
    assert _killed(job)["reason"] == "pages-lost"
