"""When rounds end, and what a migration with rounds says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from migrate.errors import MigrateError
from migrate.precopy import (
    DEFAULT_DOWNTIME_S,
    LEAST_SHARE,
    Ended,
    Mode,
    RoundLimits,
    RoundReport,
    Rounds,
    parse_downtime,
)
from migrate.report import MigrateReport
from migrate.timeline import draw
from tests.support.lab import Lab
from tests.support.wait import wait_until

MIB = 1 << 20


def _report(number: int, memory_bytes: int, left_bytes: int) -> RoundReport:
    """A round that travelled at 1 GiB/s."""
    return RoundReport(
        number=number,
        began_ns=number * 10**9,
        elapsed_ns=memory_bytes * 10**9 >> 30,
        scan_ns=10**6,
        pages=memory_bytes >> 12,
        memory_bytes=memory_bytes,
        sent_bytes=memory_bytes // 2,
        dirty_bytes_per_s=0.0,
        left_bytes=left_bytes,
        freezes=1,
        cpu_share=1.0,
    )


def _judge(*left: int, limits: RoundLimits | None = None) -> list[Ended | None]:
    """What is said after each of these rounds, by what they leave."""
    rounds = Rounds()
    said = []
    before = 1 << 30
    for number, bytes_left in enumerate(left, 1):
        rounds.reports.append(_report(number, before, bytes_left))
        said.append(rounds.judge(limits or RoundLimits()))
        before = bytes_left
    return said


def test_rounds_end_when_the_rest_fits() -> None:
    assert _judge(64 * MIB, 4 * MIB, 128 << 10) == [None, None, Ended.FITS]
    assert _judge(0) == [Ended.FITS]


def test_what_does_not_shrink_but_fits_is_enough() -> None:
    left = 1 * MIB  # more than would be ideal, less than would be too much
    assert _judge(left, left, left, left, left)[-2:] == [Ended.FITS, Ended.FITS]


def test_rounds_that_do_not_shrink_end() -> None:
    said = _judge(*[512 * MIB] * 4)
    assert said == [None, None, None, Ended.NOT_SHRINKING]
    # One good round among bad ones is a reason to go on.
    assert _judge(512 * MIB, 512 * MIB, 512 * MIB, 256 * MIB, 256 * MIB, 250 * MIB) == [None] * 6


def test_rounds_before_post_copy_end_at_the_first_that_does_not_shrink() -> None:
    limits = RoundLimits(stubborn=1)
    assert _judge(512 * MIB, 128 * MIB, limits=limits) == [None, None]
    assert _judge(512 * MIB, 128 * MIB, 127 * MIB, limits=limits)[-1] is Ended.NOT_SHRINKING
    assert _judge(512 * MIB, limits=limits) == [None]


def test_the_limit() -> None:
    limits = RoundLimits(rounds=2)
    assert _judge(512 * MIB, 64 * MIB, limits=limits) == [None, Ended.LIMIT]
    assert _judge(512 * MIB, 0, limits=limits) == [None, Ended.FITS]


def test_a_larger_budget_ends_them_earlier() -> None:
    assert _judge(8 * MIB, limits=RoundLimits(max_downtime_s=DEFAULT_DOWNTIME_S)) == [None]
    assert _judge(8 * MIB, limits=RoundLimits(max_downtime_s=10.0)) == [Ended.FITS]


def test_throttling_has_an_end() -> None:
    rounds = Rounds()
    steps = 0
    while rounds.throttled():
        steps += 1
    assert rounds.cpu_share == LEAST_SHARE and steps == 5


@pytest.mark.parametrize(("text", "seconds"), [("80ms", 0.08), ("0.5s", 0.5), ("2 s", 2.0)])
def test_downtimes(text: str, seconds: float) -> None:
    assert parse_downtime(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0ms", "5", "5m", "-1s", "ms"])
def test_no_downtimes(text: str) -> None:
    with pytest.raises(MigrateError) as caught:
        parse_downtime(text)
    assert caught.value.reason == "bad-downtime"


@pytest.mark.parametrize("rounds", [0, 3])
def test_the_picture(rounds: int) -> None:
    report = MigrateReport("<job>", "root@b", downtime_ns=90_000_000)
    report.freeze_ns, report.transfer_ns = 2_000_000, 40_000_000
    report.restore_ns, report.thaw_ns = 40_000_000, 8_000_000
    report.rounds = [_report(number, 8 * MIB, MIB) for number in range(1, rounds + 1)]
    report.mode = Mode.PRECOPY if rounds else Mode.STOP
    picture = ElementTree.fromstring(draw(report))
    bars = [element for element in picture if element.tag.endswith("rect")]
    assert len(bars) == 1 + 2 * rounds + 4 + 4
    texts = [element.text or "" for element in picture if element.tag.endswith("text")]
    assert any("<job>" in text for text in texts) and "downtime" in texts
    assert all(float(bar.get("width", "0").rstrip("%")) >= 0 for bar in bars)
    report.complete_ns = 2_000_000_000
    later = ElementTree.fromstring(draw(report))
    assert len([one for one in later if one.tag.endswith("rect")]) == len(bars) + 1


# In the lab

WRITER = """
import mmap, os, sys, time
m = mmap.mmap(-1, 8 << 20, flags=getattr(mmap, sys.argv[1]) | mmap.MAP_ANONYMOUS)
noise = os.urandom(len(m) + 4096)
m[:] = noise[:len(m)]
os.makedirs("/precopy", exist_ok=True)
open("/precopy/ready", "w").close()
n = 0
while True:
    n = (n + 61) % 4096
    m[:] = noise[n:n + len(m)]
"""


@pytest.fixture(params=["MAP_PRIVATE"])
def writer(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A container that writes to all of its memory all the time; removed wherever it is."""
    program = ("python3", "-c", WRITER, request.param)
    lab.run("a", "wherry", "do", "--id", "job", "--detach", "--", *program)
    ready = "/run/wherry/job/overlay/upper/precopy/ready"
    wait_until(lambda: lab.path("a", ready).exists(), 30, "memory filled")
    yield lab
    for host in ("a", "b"):
        for cid in lab.containers(host):
            lab.run(host, "wherry", "delete", "--force", cid, check=False)


@pytest.mark.parametrize("writer", ["MAP_PRIVATE", "MAP_SHARED"], indirect=True)
def test_it_does_not_converge(writer: Lab, tmp_path: Path) -> None:
    """It is given up, or done all the same."""
    slow = ("--bandwidth", "20M", "--max-downtime", "10ms")
    command = ("wherry", "migrate", *slow, "--rounds", "2")
    given_up = writer.run("a", *command, "--on-no-convergence", "give-up", "job", "b", check=False)
    assert given_up.returncode == 40 and "no-convergence" in given_up.stderr
    assert writer.containers("a") == {"job": "running"} and writer.containers("b") == {}
    picture = tmp_path / "picture.svg"
    report = writer.json("a", *command, "--json", "--plot", picture, "job", "b")
    assert report["rounds_ended"] == "limit" and len(report["rounds"]) == 2
    assert report["rounds"][1]["dirty_bytes_per_s"] > MIB
    ElementTree.parse(picture)
    assert writer.containers("b") == {"job": "running"} and writer.containers("a") == {}


def test_throttled(writer: Lab) -> None:
    before = _limits(writer)
    limits = ("--max-downtime", "20ms", "--bandwidth", "30M", "--rounds", "6")
    throttled = ("--on-no-convergence", "throttle")
    report = writer.json("a", "wherry", "migrate", "--json", *limits, *throttled, "job", "b")
    shares = [one["cpu_share"] for one in report["rounds"]]
    assert shares[:4] == [1.0] * 4 and shares[-1] == 0.5
    assert writer.containers("b") == {"job": "running"}
    # Over there it has all of its processors again.
    assert _limits(writer, "b") == before


def test_a_throttled_one_that_stays_is_as_before(writer: Lab) -> None:
    before = _limits(writer)
    words = ("--on-no-convergence", "throttle", "--max-downtime", "1ms", "--bandwidth", "20M")
    call = writer.popen("a", "wherry", "migrate", *words, "job", "b")
    try:
        wait_until(lambda: _limits(writer) != before, 60, "the throttling")
        worker = max(writer.pids("a", "wherry migrate"))
        writer.run("a", "kill", "-KILL", str(worker))
    finally:
        call.wait(60)
    assert call.returncode != 0
    assert _limits(writer) == before and writer.containers("a") == {"job": "running"}


@pytest.mark.parametrize("mode", ["stop", "precopy"])
def test_after_a_snapshot_whose_tracking_is_armed(mode: str, writer: Lab, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    writer.run("a", "wherry", "store", "init", "--store", store)
    options = ("--leave-running", "--json", "--store", store)
    made = writer.json("a", "wherry", "snapshot", *options, "job")
    assert made["tracking"]["rounds"] > 0
    report = writer.json("a", "wherry", "migrate", "--json", "--mode", mode, "job", "b")
    assert report["mode"] == mode
    assert writer.containers("b") == {"job": "running"}
    again = writer.json("b", "wherry", "snapshot", *options, "job")
    assert again["tracking"]["why_not"] == "no snapshot was taken before"


def test_stop_is_as_it_was(writer: Lab) -> None:
    report = writer.json("a", "wherry", "migrate", "--json", "--mode", "stop", "job", "b")
    assert report["mode"] == "stop" and report["rounds"] == [] and report["rounds_ended"] == ""
    assert report["staged_bytes"] == 0 and report["memory_bytes"] > 8 * MIB


def _limits(lab: Lab, host: str = "a") -> dict[str, str]:
    """What the container's cgroups say about processor time."""
    state = json.loads(lab.run(host, "cat", "/run/wherry/job/state.json").stdout)["cgroups"]
    found = {}
    for directory in (*state["v1"].values(), state["v2"]):
        for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
            path = lab.path(host, f"{directory}/{name}")
            if directory and path.exists():
                found[name] = path.read_text()
    return found
