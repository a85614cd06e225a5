"""Two hours of a schedule: the real scheduler, real snapshots of a real job, a clock that jumps.

Each minute of the schedule the job changes a part of its memory, and a snapshot is due. When the
time is over every snapshot is read back whole, some are restored, rules drop most of them, the
store is pruned, and the newest one is restored once more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from migrate.schedule.plan import Job, parse_plan
from migrate.schedule.running import CommandRunner, Outcome
from migrate.schedule.scheduler import Scheduler
from scripts.benchmark.measure import note, until
from scripts.benchmark.plot import Series, draw
from scripts.benchmark.store import CHANGER
from scripts.benchmark.tool import Tool

START = 1_800_000_000.0


@dataclass
class Point:
    """One snapshot: seconds, bytes; and all of the store's files behind it."""

    minute: int
    elapsed_s: float
    frozen_s: float
    new_bytes: int
    store_bytes: int


class JumpingClock:
    """Whoever waits is there at once; what is done takes no time of the schedule."""

    def __init__(self, minutes: int) -> None:
        self._time = START
        self._end = START + minutes * 60
        self.stop: Callable[[], None] = lambda: None

    def now(self) -> float:
        """Seconds since the epoch, as the scheduler shall see them."""
        return self._time

    def wait(self, until: float, wake: threading.Event) -> None:
        """Jump to *until*, or end."""
        if not wake.is_set():
            self._time = until
            if until > self._end:
                self.stop()


class ChangingRunner(CommandRunner):
    """Lets the job change before each snapshot, and notes what that cost."""

    def __init__(self, root: Path, inside: Path, pages: int, how: str, store: Path) -> None:
        super().__init__(root)
        self._inside, self._pages, self._how, self._store = inside, pages, how, store
        self.points: list[Point] = []
        self.snapshots: list[str] = []

    def run(
        self, job: Job, containers: Sequence[str], *, timeout_s: float | None = None
    ) -> Outcome:
        """See Runner; the last snapshot, at the scheduler's end, is not one of the schedule."""
        if timeout_s is not None:
            return Outcome()
        if self.points:
            request = self._inside / "next"
            (self._inside / "request").write_text(f"{self._pages} {self._how}")
            (self._inside / "request").rename(request)
            until(lambda: not request.exists(), "the change")
        outcome = super().run(job, containers)
        if outcome.failure is not None:
            raise SystemExit(f"snapshot {len(self.points) + 1}: {outcome.failure}")
        (taken,) = outcome.taken
        assert taken.snapshot is not None
        self.snapshots.append(taken.snapshot)
        minute = len(self.points) + 1
        self.points.append(
            Point(minute, taken.elapsed_s, taken.frozen_s, taken.new_bytes, _size(self._store))
        )
        return outcome


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the schedule and judge what it leaves."""
    control, store = scratch / "changer", scratch / "store"
    control.mkdir()
    (scratch / "r").mkdir(mode=0o711)
    tool = Tool(scratch / "r")
    tool.run("store", "init", "--store", store)
    python = os.path.realpath(sys.executable)
    size = str(options.mebibytes)
    tool.run("do", "--detach", "--id", "job", "--", python, CHANGER, size, control)
    try:
        inside = Path(f"/proc/{tool.pid('job')}/root{control}")
        until((inside / "ready").exists, "the filled memory")
        pages = int((options.mebibytes << 8) * options.change / 100)
        runner = ChangingRunner(tool.root, inside, pages, options.how, store)
        job = {"name": "two-hours", "containers": ["job"], "every": "1m", "store": str(store)}
        plan = parse_plan({"job": [job], "state": str(scratch / "state.json")}, "two-hours")
        clock = JumpingClock(options.minutes)
        scheduler = Scheduler(plan, runner, clock, lambda work: work())
        clock.stop = scheduler.stop
        note(f"{options.minutes} minutes, {size} MiB, {options.change} % each")
        scheduler.run()
        tool.run("delete", "--force", "job")
        return _judge(tool, store, runner, options)
    finally:
        tool.run("delete", "--force", "job")


def _judge(
    tool: Tool, store: Path, runner: ChangingRunner, options: argparse.Namespace
) -> dict[str, Any]:
    note("reading every snapshot back")
    for snapshot in runner.snapshots:
        tool.run("image", "verify", f"{store}:{snapshot}")
    restored = runner.snapshots[:: options.restore_each]
    note(f"restoring {len(restored)} of them")
    for snapshot in restored:
        _restore(tool, store, snapshot)
    before = _size(store)
    tool.run("forget", "--store", store, "--keep-last", "12", "--prune")
    tool.run("store", "check", "--read-data", "--store", store)
    _restore(tool, store, runner.snapshots[-1])
    frozen = sorted(point.frozen_s for point in runner.points[1:])
    return {
        "mebibytes": options.mebibytes,
        "changed_percent": options.change,
        "how": options.how,
        "snapshots": len(runner.points),
        "verified": len(runner.snapshots),
        "restored": len(restored) + 1,
        "first_frozen_s": runner.points[0].frozen_s,
        "median_frozen_s": frozen[len(frozen) // 2],
        "worst_frozen_s": frozen[-1],
        "first_bytes": runner.points[0].new_bytes,
        "mean_new_bytes": sum(point.new_bytes for point in runner.points[1:]) / len(frozen),
        "store_bytes": before,
        "after_prune_bytes": _size(store),
        "points": [asdict(point) for point in runner.points],
    }


def _restore(tool: Tool, store: Path, snapshot: str) -> None:
    tool.run("restore", "--detach", f"{store}:{snapshot}", "job")
    assert tool.json("state", "job")["status"] == "running"
    tool.run("delete", "--force", "job")


def plot(report: dict[str, Any]) -> str:
    """Store growth and freeze times over the minutes, as SVG."""
    points = report["points"]
    sizes = [point["store_bytes"] / 2**20 for point in points]
    frozen = [point["frozen_s"] * 1e3 for point in points]
    title = (
        f"{len(points)} snapshots of {report['mebibytes']} MiB,"
        f" {report['changed_percent']:g} % changed between two"
    )
    return draw(title, "minutes", [Series("store, MiB", sizes), Series("frozen, ms", frozen)])


def main() -> int:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(prog="two-hours", description=__doc__)
    parser.add_argument("--minutes", type=int, default=120)
    parser.add_argument("--mebibytes", type=int, default=512)
    parser.add_argument("--change", type=float, default=1.0, metavar="PERCENT")
    parser.add_argument("--how", choices=["together", "apart"], default="together")
    parser.add_argument("--restore-each", type=int, default=10, metavar="N")
    parser.add_argument("--scratch", type=Path, help="A directory on a disk with room.")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="SVG")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="w-", dir=options.scratch))
    scratch.chmod(0o755)
    try:
        report = measure(scratch, options)
    finally:
        shutil.rmtree(scratch)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        options.plot.write_text(plot(report))
    print(json.dumps({key: value for key, value in report.items() if key != "points"}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
