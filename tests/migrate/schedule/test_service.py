"""The scheduler as a service, with real containers and a real store."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate.schedule.plan import Plan, parse_plan
from migrate.schedule.running import CommandRunner
from migrate.schedule.scheduler import Scheduler
from tests.support.command import Wherry
from tests.support.wait import wait_until

COUNT = "n=0; while :; do n=$((n+1)); echo $n >/tmp/count; sleep 0.02; done"


@pytest.fixture
def store(wherry: Wherry, scratch: Path) -> str:
    url = str(scratch / "store")
    wherry("store", "init", "--store", url)
    return url


@pytest.fixture
def locked_store(wherry: Wherry, scratch: Path) -> tuple[str, Path]:
    """An encrypted store, and the file with its password."""
    password = _written(scratch / "password", "a long one\n")
    url = str(scratch / "locked")
    wherry("store", "init", "--store", url, "--encrypt", "--password-file", password)
    return url, password


@pytest.fixture
def job(wherry: Wherry) -> Iterator[str]:
    wherry("do", "--detach", "--id", "job-1", "--", "sh", "-c", COUNT)
    yield "job-1"
    wherry("delete", "--force", "job-1", check=False)


def _snapshots(wherry: Wherry, store: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = wherry.json("snapshots", "--json", "--store", store)
    return listed


@pytest.fixture
def service(wherry: Wherry, scratch: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts ``wherry schedule run``; killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
        with (scratch / "service.log").open("ab") as log:
            process = wherry.popen(
                *("schedule", "run", "--state", scratch / "state.json", *arguments),
                stdout=log,
                stderr=log,
            )
        started.append(process)
        wait_until((scratch / "state.json").exists, what="the scheduler")
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def _status(wherry: Wherry, scratch: Path) -> dict[str, Any]:
    found: dict[str, Any] = wherry.json(
        "schedule", "status", "--json", "--state", scratch / "state.json"
    )
    return found


def test_a_service_from_beginning_to_end(
    wherry: Wherry,
    scratch: Path,
    store: str,
    job: str,
    service: Callable[..., subprocess.Popen[bytes]],
) -> None:
    hooks = scratch / "hooks"
    process = service(
        *("--every", "1h", "--container", "job-*", "--store", store, "--tag", "auto"),
        *("--nice", "1", "--cpus", "0", "--bwlimit", "100M"),
        *("--before", f'echo "before $WHERRY_CONTAINERS" >>{hooks}'),
        *("--after", f'echo "after $WHERRY_RESULT" >>{hooks}'),
    )
    assert _status(wherry, scratch)["scheduler_running"]
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: hooks.exists() and "after" in hooks.read_text(), what="a snapshot")
    wait_until(lambda: _status(wherry, scratch)["jobs"]["job"]["runs"] == 1)
    (first,) = _snapshots(wherry, store)
    assert (first["container_id"], first["tags"]) == (job, ["auto"])
    assert hooks.read_text() == f"before {job}\nafter ok\n"
    table = wherry("schedule", "status", "--state", scratch / "state.json").stdout.splitlines()
    assert len(table) == 2 and table[1].split()[:2] == ["job", job] and table[1].endswith("ok")

    process.terminate()
    assert process.wait(60) == 0
    snapshots = _snapshots(wherry, store)
    assert len(snapshots) == 2  # the end of the service is saved, too
    assert wherry.status(job) == "running"
    status = _status(wherry, scratch)
    assert not status["scheduler_running"]
    record = status["jobs"]["job"]
    assert (record["runs"], record["failures"], record["running"]) == (2, 0, False)
    kept = record["containers"][job]
    assert kept["snapshot"] in {one["id"] for one in snapshots}
    assert kept["frozen_s"] > 0 and kept["plain_bytes"] > 0


def test_a_failing_store_harms_no_job(
    wherry: Wherry,
    scratch: Path,
    job: str,
    service: Callable[..., subprocess.Popen[bytes]],
) -> None:
    nowhere = str(scratch / "none")
    process = service("--every", "1h", "--container", "*", "--store", nowhere)
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: _status(wherry, scratch)["jobs"]["job"]["failures"] == 1)
    record = _status(wherry, scratch)["jobs"]["job"]
    assert record["retry_at"] is not None and nowhere in record["containers"][job]["error"]
    process.terminate()
    assert process.wait(60) == 1
    assert "the last snapshot failed" in (scratch / "service.log").read_text()
    assert wherry.status(job) == "running"


def test_an_encrypted_store(
    wherry: Wherry, wherry_root: Path, locked_store: tuple[str, Path], job: str
) -> None:
    url, password = locked_store
    plan = _plan(url, password_file=str(password), keep={"last": 1})
    for _ in range(2):
        outcome = CommandRunner(wherry_root).run(plan.jobs[0], [job])
        assert outcome.failure is None
    listed = wherry.json("snapshots", "--json", "--store", url, "--password-file", password)
    assert [one["id"] for one in listed] == [outcome.taken[0].snapshot]
    outcome = CommandRunner(wherry_root).run(_plan(url).jobs[0], [job])
    assert outcome.failure is not None and wherry.status(job) == "running"


def test_a_hook_that_fails_stops_the_run(wherry_root: Path, store: str, job: str) -> None:
    plan = _plan(store, before=["sh", "-c", "echo the disk is full >&2; exit 3"])
    outcome = CommandRunner(wherry_root).run(plan.jobs[0], [job])
    assert outcome.taken == () and outcome.failure == "the hook 'before': the disk is full"
    plan = _plan(store, before=["sleep", "60"], hook_timeout="0.1s")
    outcome = CommandRunner(wherry_root).run(plan.jobs[0], [job])
    assert outcome.failure is not None and "longer than 0.1 s" in outcome.failure
    plan = _plan(store, before=[str(Path(store) / "config")])
    outcome = CommandRunner(wherry_root).run(plan.jobs[0], [job])
    assert outcome.failure is not None and "Permission denied" in outcome.failure


def _plan(store: str, **more: object) -> Plan:
    job = {"name": "j", "containers": ["job-*"], "every": "1m", "store": store, **more}
    return parse_plan({"job": [job], "state": "/nonexistent"}, "test")


class _Skipping:
    """Time that jumps to whatever is next, a few times."""

    def __init__(self, times: int) -> None:
        self.time, self.left = 1_800_000_000.0, times
        self.stop: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self.time

    def wait(self, until: float, wake: threading.Event) -> None:
        self.time = max(self.time, until)
        self.left -= 1
        if self.left < 0:
            self.stop()


def test_time_that_passes_faster(
    wherry: Wherry, wherry_root: Path, scratch: Path, store: str, job: str
) -> None:
    """Snapshots of real containers, minutes apart for the scheduler alone."""
    plan = Plan(_plan(store, keep={"last": 2}, prune=True).jobs, scratch / "state.json")
    clock = _Skipping(3)
    scheduler = Scheduler(plan, CommandRunner(wherry_root), clock, lambda work: work())
    clock.stop = scheduler.stop
    scheduler.run()
    # Of three at set times two were kept; the one at the end forgets nothing, to be quick.
    snapshots = _snapshots(wherry, store)
    assert len(snapshots) == 3
    wherry("store", "check", "--store", store)
    record = scheduler.records["j"]
    assert record.containers[job].snapshots == 4
    assert (record.runs, record.failures) == (4, 0)
    assert record.last_end == 1_800_000_000.0 + 240.0


def test_check_shows_what_would_be_done(wherry: Wherry, scratch: Path, job: str) -> None:
    path = scratch / "schedule.toml"
    path.write_text(
        '[[job]]\nname = "a"\ncontainers = ["job-*"]\nevery = "10m"\nstore = "/s"\n'
        '[[job]]\nname = "b"\nlabels = { x = "y" }\ncron = "0 4 * * *"\nstore = "/s"\n'
    )
    first, second = wherry.json("schedule", "check", "--json", "--file", path)
    assert (first["job"], first["containers"]) == ("a", [job])
    assert second["containers"] == []
    assert [one % 600 for one in first["next"]] == [0, 0, 0]
    table = wherry("schedule", "check", "--file", path).stdout.splitlines()
    assert len(table) == 3
    assert (
        "not known"
        in wherry.fails(
            *("schedule", "check", "--file", _written(scratch / "bad.toml", "x = 1\n"))
        ).stderr
    )
    wherry.fails("schedule", "check", "--every", "1m", "--container", "*", "--file", path)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_install_writes_a_service(wherry: Wherry, scratch: Path) -> None:
    path = _written(
        scratch / "s.toml", '[[job]]\nname="a"\ncontainers=["*"]\nevery="10m"\nstore="/s"\n'
    )
    printed = wherry("schedule", "install", "--file", path, "--print").stdout
    assert f"schedule run --file {path}" in printed
    wherry("schedule", "install", "--file", path, "--directory", scratch)
    assert (scratch / "wherry-schedule.service").read_text() == printed
