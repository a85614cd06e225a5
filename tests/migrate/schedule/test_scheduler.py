"""What the scheduler decides, with time that passes as fast as it can.

The runner is the seam: here it keeps a list; test_service.py has the real one.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from migrate.errors import ScheduleError
from migrate.schedule.metrics import exposition, serving
from migrate.schedule.notice import watch
from migrate.schedule.plan import Job, Notice, Plan
from migrate.schedule.record import is_running, only_one, read_records
from migrate.schedule.running import Outcome, Taken
from migrate.schedule.scheduler import Scheduler
from migrate.schedule.timing import Timing
from tests.support.wait import wait_until

START = 1_800_000_000.0  # a multiple of 600


class FastClock:
    """Whoever waits is there at once. Stops the scheduler at its end."""

    def __init__(self, end: float) -> None:
        self.time, self.end = START, end
        self.stop: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self.time

    def wait(self, until: float, wake: threading.Event) -> None:
        if wake.is_set():
            return
        self.time = max(self.time, min(until, self.end))
        if self.time >= self.end:
            self.stop()


class Listing:
    """A runner that notes what it is asked to do."""

    def __init__(self, clock: FastClock, outcomes: Sequence[str | None] = ()) -> None:
        self.clock, self.outcomes = clock, list(outcomes)
        self.runs: list[tuple[float, str]] = []
        self.final: list[tuple[str, tuple[str, ...]]] = []
        self.containers = ["a", "b"]

    def select(self, job: Job) -> list[str]:
        return self.containers

    def run(
        self, job: Job, containers: Sequence[str], *, timeout_s: float | None = None
    ) -> Outcome:
        if timeout_s is not None:
            self.final.append((job.name, tuple(containers)))
        else:
            self.runs.append((self.clock.time - START, job.name))
        error = self.outcomes.pop(0) if self.outcomes else None
        return Outcome(
            tuple(Taken(cid, f"{cid}-id", error, 1.0, 0.01, 100, 10) for cid in containers)
        )


def at_once(work: Callable[[], None]) -> None:
    work()


def job(name: str = "job", every_s: float = 600.0, **changes: object) -> Job:
    return replace(Job(name, Timing(every_s), "/s", ("*",)), **changes)  # type: ignore[arg-type]


def simulate(
    tmp_path: Path,
    *jobs: Job,
    for_s: float = 3600.0,
    outcomes: Sequence[str | None] = (),
    begin: float = START,
) -> tuple[Scheduler, Listing]:
    clock = FastClock(begin + for_s)
    clock.time = begin
    runner = Listing(clock, outcomes)
    scheduler = Scheduler(Plan(jobs, tmp_path / "state.json"), runner, clock, at_once)
    clock.stop = scheduler.stop
    scheduler.run()
    return scheduler, runner


def test_two_hours_in_a_moment(tmp_path: Path) -> None:
    scheduler, runner = simulate(
        tmp_path, job("minutely", 60.0), job("hourly", 3600.0), for_s=7200.5
    )
    minutely = [time for time, name in runner.runs if name == "minutely"]
    assert minutely == [60.0 * n for n in range(1, 121)]
    assert [time for time, name in runner.runs if name == "hourly"] == [3600.0, 7200.0]
    record = read_records(tmp_path / "state.json")["minutely"]
    assert record == scheduler.records["minutely"]
    assert (record.runs, record.failures, record.missed, record.skipped) == (121, 0, 0, 0)
    assert record.containers["a"].snapshots == 121  # the last one at the end, with stop
    assert record.next_due == START + 7260.0


def test_a_failure_is_tried_again_later_and_later(tmp_path: Path) -> None:
    one = job(retries=3, retry_delay_s=10.0)
    scheduler, runner = simulate(tmp_path, one, for_s=1300.0, outcomes=["no"] * 4)
    # Due at 600; again after 10, 20 and 40 s, then not before it is due.
    assert [time for time, _ in runner.runs] == [600.0, 610.0, 630.0, 670.0, 1200.0]
    record = scheduler.records["job"]
    assert (record.runs, record.failures, record.error) == (6, 4, None)
    assert record.containers["a"].failures == 4


def test_a_failure_is_reported(tmp_path: Path) -> None:
    scheduler, _ = simulate(tmp_path, job(retries=0), for_s=650.0, outcomes=["disk full"] * 2)
    record = read_records(tmp_path / "state.json")["job"]
    assert record.error == "a: disk full" and record.containers["b"].error == "disk full"
    assert 'wherry_schedule_failing{job="job"} 1.0' in exposition(scheduler.records)


@pytest.mark.parametrize(("overlap", "runs", "skipped"), [("skip", 1, 2), ("queue", 2, 0)])
def test_it_is_due_while_it_runs(tmp_path: Path, overlap: str, runs: int, skipped: int) -> None:
    clock = FastClock(START + 1e9)
    runner = Listing(clock)
    pending: list[Callable[[], None]] = []
    plan = Plan((job(overlap=overlap),), tmp_path / "state.json")
    scheduler = Scheduler(plan, runner, clock, pending.append)
    for elapsed in (600.0, 1200.0, 1800.0):
        clock.time = START + elapsed
        scheduler.tick()
    assert len(pending) == 1 and scheduler.records["job"].running
    pending.pop()()
    scheduler.tick()
    while pending:
        pending.pop()()
        scheduler.tick()
    assert len(runner.runs) == runs
    assert scheduler.records["job"].skipped == skipped
    assert not scheduler.records["job"].running


@pytest.mark.parametrize(("missed", "runs"), [("skip", []), ("run-now", [7000.0])])
def test_it_was_due_while_nobody_was_there(tmp_path: Path, missed: str, runs: list[float]) -> None:
    simulate(tmp_path, job(missed=missed), for_s=650.0)
    scheduler, runner = simulate(tmp_path, job(missed=missed), for_s=100.0, begin=START + 7000.0)
    assert [time for time, _ in runner.runs] == runs
    assert scheduler.records["job"].missed == 1
    assert scheduler.records["job"].next_due == START + 7200.0


def test_another_rule_makes_a_new_beginning(tmp_path: Path) -> None:
    simulate(tmp_path, job(missed="run-now"), for_s=650.0)
    changed = job(every_s=1000.0, missed="run-now")
    scheduler, runner = simulate(tmp_path, changed, for_s=100.0, begin=START + 7000.0)
    assert runner.runs == [] and scheduler.records["job"].missed == 0
    assert scheduler.records["job"].runs == 3  # what was done is remembered


def test_a_clock_that_is_put_back(tmp_path: Path) -> None:
    clock = FastClock(START + 1e9)
    runner = Listing(clock)
    scheduler = Scheduler(Plan((job(),), tmp_path / "state.json"), runner, clock, at_once)
    clock.time = START - 86_000.0
    scheduler.tick()
    assert scheduler.next_event() <= clock.time + 600.0


def test_the_end_saves_each_container_once(tmp_path: Path) -> None:
    jobs = (job("one"), job("same store"), job("other", store="/other"))
    _, runner = simulate(tmp_path, *jobs, for_s=10.0)
    assert sorted(runner.final) == [("one", ("a", "b")), ("other", ("a", "b"))]


def test_the_end_waits_for_a_snapshot_that_is_on_its_way(tmp_path: Path) -> None:
    """Two at once would be in each other's way; the last one comes after it, and saves later."""
    began, go_on = threading.Event(), threading.Event()

    class Slow(Listing):
        def run(
            self, job: Job, containers: Sequence[str], *, timeout_s: float | None = None
        ) -> Outcome:
            if timeout_s is None:
                began.set()
                assert go_on.wait(30)
                order.append("set time")
            else:
                assert 0 < timeout_s <= 90
                order.append("end")
            return super().run(job, containers, timeout_s=timeout_s)

    order: list[str] = []
    clock = FastClock(START + 1e9)
    plan = Plan((job(),), tmp_path / "state.json")
    scheduler = Scheduler(plan, Slow(clock), clock)
    scheduler.snapshot_now()
    scheduler.tick()
    assert began.wait(30)
    scheduler.stop()
    service = threading.Thread(target=scheduler.run)
    service.start()
    go_on.set()
    service.join(30)
    assert order == ["set time", "end"]
    record = read_records(tmp_path / "state.json")["job"]
    assert (record.runs, record.running) == (2, False)


def test_a_snapshot_of_everything_now(tmp_path: Path) -> None:
    clock = FastClock(START + 30.0)
    runner = Listing(clock)
    plan = Plan((job("one"), job("two")), tmp_path / "state.json")
    scheduler = Scheduler(plan, runner, clock, at_once)
    clock.stop = scheduler.stop
    scheduler.snapshot_now()
    scheduler.run()
    assert runner.runs == [(0.0, "one"), (0.0, "two")]


def test_a_bug_in_a_run_does_not_end_the_scheduler(tmp_path: Path) -> None:
    class Broken(Listing):
        def select(self, job: Job) -> list[str]:
            if len(self.runs) == 0:
                self.runs.append((0.0, "broken"))
                raise RuntimeError("a bug")
            return super().select(job)

    clock = FastClock(START + 1300.0)
    runner = Broken(clock)
    scheduler = Scheduler(Plan((job(retries=0),), tmp_path / "state.json"), runner, clock, at_once)
    clock.stop = scheduler.stop
    scheduler.run()
    assert [time for time, _ in runner.runs] == [0.0, 1200.0]
    assert scheduler.records["job"].failures == 1


def test_one_scheduler_for_each_state(tmp_path: Path) -> None:
    path = tmp_path / "below" / "state.json"
    assert not is_running(path)
    with only_one(path):
        assert is_running(path)
        with pytest.raises(ScheduleError) as error, only_one(path):
            pass
        assert error.value.reason == "schedule-running"
    assert not is_running(path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"jobs": 3}', '{"jobs": {"a": []}}', '{"jobs": {"a": {"containers": 1}}}'],
)
def test_a_state_file_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ScheduleError) as error:
        read_records(tmp_path / "state.json")
    assert error.value.reason == "schedule-state"


def test_a_state_file_of_a_later_version(tmp_path: Path) -> None:
    simulate(tmp_path, job(), for_s=650.0)
    path = tmp_path / "state.json"
    document = json.loads(path.read_text())
    document["jobs"]["job"]["colour"] = "red"
    path.write_text(json.dumps(document))
    assert read_records(path)["job"].runs == 2


def test_what_prometheus_reads(tmp_path: Path) -> None:
    scheduler, _ = simulate(tmp_path, job(), for_s=650.0)
    with serving(0, scheduler.records) as port:
        url = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            lines = answer.read().decode().splitlines()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{url}/etc/passwd", timeout=10)
        with pytest.raises(ScheduleError) as error, serving(port, {}):
            pass
    assert error.value.reason == "metrics-port"
    assert "# TYPE wherry_schedule_runs_total counter" in lines
    assert 'wherry_schedule_runs_total{job="job"} 2' in lines
    assert 'wherry_schedule_snapshot_freeze_seconds{job="job",container="a"} 0.01' in lines
    for line in lines:
        assert line.startswith("#") or float(line.rpartition(" ")[2]) >= 0


def test_a_notice_of_the_hosts_end(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    acted, over = threading.Event(), threading.Event()
    notice = Notice(("test", "-e", str(sign)), 0.01)
    thread = threading.Thread(target=watch, args=(notice, acted.set, over))
    thread.start()
    try:
        assert not acted.wait(0.1)
        sign.touch()
        wait_until(acted.is_set)
    finally:
        over.set()
        thread.join()
