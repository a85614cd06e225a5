"""When jobs are due: intervals, cron expressions, time zones, jitter."""

from __future__ import annotations

import datetime

import pytest

from migrate.errors import ScheduleError
from migrate.schedule.timing import Timing, parse_duration


def at(text: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("0.5s", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "0s", "10 m", "-5m", "5m!", "1y"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ScheduleError):
        parse_duration(text)


def test_an_interval_does_not_depend_on_when_it_began() -> None:
    timing = Timing(600.0)
    assert timing.next_after(at("2026-03-01T10:00:00")) == at("2026-03-01T10:10:00")
    assert timing.next_after(at("2026-03-01T10:03:21")) == at("2026-03-01T10:10:00")


@pytest.mark.parametrize(
    ("cron", "zone", "after", "then"),
    [
        ("*/15 * * * *", "UTC", "2026-03-01T10:00:00", "2026-03-01T10:15:00"),
        ("30 2 * * 1-5", "UTC", "2026-03-06T02:30:00", "2026-03-09T02:30:00"),
        ("0 4 * * *", "Europe/Berlin", "2026-03-01T10:00:00", "2026-03-02T03:00:00"),
        # 02:30 does not exist on the day on which clocks are put forward: right after it, as cron.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00", "2026-03-29T01:00:00"),
        # It exists twice when they are put back, and is done once.
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00", "2026-10-26T01:30:00"),
    ],
)
def test_cron(cron: str, zone: str, after: str, then: str) -> None:
    assert Timing(None, cron, zone).next_after(at(after)) == at(then)


def test_jitter_is_the_same_for_the_same_time_and_differs_between_hosts() -> None:
    first, other = Timing(600.0, jitter_s=60.0, salt="a"), Timing(600.0, jitter_s=60.0, salt="b")
    times = [n * 600.0 for n in range(200)]
    delays = [first.put_off(time) - time for time in times]
    assert delays == [first.put_off(time) - time for time in times]
    assert all(0 <= delay < 60 for delay in delays)
    assert max(delays) > 50 and min(delays) < 10
    assert delays != [other.put_off(time) - time for time in times]


@pytest.mark.parametrize(
    "arguments",
    [
        {"every_s": None},
        {"every_s": 60.0, "cron": "* * * * *"},
        {"every_s": 0.5},
        {"every_s": 60.0, "jitter_s": 60.0},
        {"every_s": None, "cron": "61 * * * *"},
        {"every_s": None, "cron": "nonsense"},
        {"every_s": None, "cron": "0 0 31 2 *"},
        {"every_s": None, "cron": "* * * * *", "timezone": "Mars/Olympus"},
        {"every_s": None, "cron": "* * * * *", "timezone": "../../etc/passwd"},
    ],
)
def test_rules_that_make_no_sense(arguments: dict[str, object]) -> None:
    with pytest.raises(ScheduleError):
        Timing(**arguments)  # type: ignore[arg-type]
