"""Retention: which snapshots a policy keeps, and why."""

from __future__ import annotations

import datetime
from typing import NamedTuple

import pytest

from migrate.retention import UNLIMITED, Duration, Policy, judge, parse_duration


class Item(NamedTuple):
    created_ns: int
    tags: tuple[str, ...] = ()


def at(text: str, *tags: str) -> Item:
    moment = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
    return Item(int(moment.timestamp()) * 10**9, tags)


def kept(items: list[Item], policy: Policy) -> dict[str, tuple[str, ...]]:
    found = {}
    for verdict in judge(items, policy):
        if verdict.keeps:
            moment = datetime.datetime.fromtimestamp(verdict.item.created_ns / 1e9, datetime.UTC)
            found[f"{moment:%Y-%m-%dT%H:%M}"] = verdict.reasons
    return found


HOURS = [
    at(f"2026-03-0{day}T{hour:02}:{minute}")
    for day in (1, 2, 3)
    for hour in (0, 11, 12, 23)
    for minute in ("05", "35")
]


def test_last() -> None:
    assert kept(HOURS, Policy(last=2)) == {
        "2026-03-03T23:35": ("last",),
        "2026-03-03T23:05": ("last",),
    }


def test_hourly_keeps_the_newest_of_each_hour() -> None:
    assert list(kept(HOURS, Policy(hourly=3))) == [
        "2026-03-03T23:35",
        "2026-03-03T12:35",
        "2026-03-03T11:35",
    ]


def test_daily_keeps_the_newest_of_each_day_utc() -> None:
    assert list(kept(HOURS, Policy(daily=2))) == ["2026-03-03T23:35", "2026-03-02T23:35"]


def test_a_rule_that_is_not_used_up_keeps_the_oldest_of_all() -> None:
    found = kept(HOURS, Policy(daily=5))
    assert list(found) == [
        "2026-03-03T23:35",
        "2026-03-02T23:35",
        "2026-03-01T23:35",
        "2026-03-01T00:05",
    ]
    assert found["2026-03-01T00:05"] == ("oldest daily",)


def test_weeks_are_those_of_iso_8601() -> None:
    items = [
        at("2024-12-29T10:00"),
        at("2024-12-30T10:00"),
        at("2025-01-01T10:00"),
        at("2025-01-05T10:00"),
        at("2025-01-06T10:00"),
    ]
    assert list(kept(items, Policy(weekly=2))) == ["2025-01-06T10:00", "2025-01-05T10:00"]
    assert list(kept(items, Policy(weekly=3)))[-1] == "2024-12-29T10:00"


def test_months_and_years() -> None:
    items = [at(f"{year}-{month:02}-15T10:00") for year in (2024, 2025) for month in (1, 6, 12)]
    assert list(kept(items, Policy(monthly=2))) == ["2025-12-15T10:00", "2025-06-15T10:00"]
    assert list(kept(items, Policy(yearly=2))) == ["2025-12-15T10:00", "2024-12-15T10:00"]


def test_within_counts_from_the_newest() -> None:
    items = [
        at("2020-01-31T12:00"),
        at("2020-02-28T11:00"),
        at("2020-02-28T13:00"),
        at("2020-03-31T12:00"),
    ]
    assert list(kept(items, Policy(within=Duration(months=1)))) == ["2020-03-31T12:00"]
    assert list(kept(items, Policy(within=parse_duration("1m1d")))) == [
        "2020-03-31T12:00",
        "2020-02-28T13:00",
    ]


def test_tags_of_one_set_are_all_needed() -> None:
    items = [at("2026-01-01T00:00", "a"), at("2026-01-02T00:00", "a", "b"), at("2026-01-03T00:00")]
    assert list(kept(items, Policy(tags=(frozenset("ab"),)))) == ["2026-01-02T00:00"]
    both = kept(items, Policy(tags=(frozenset("ab"), frozenset("a"))))
    assert both["2026-01-02T00:00"] == ("tag a,b", "tag a")
    assert list(both) == ["2026-01-02T00:00", "2026-01-01T00:00"]


def test_rules_add_up_and_each_is_named() -> None:
    found = kept(HOURS, Policy(last=1, hourly=1, daily=2, yearly=1))
    assert found["2026-03-03T23:35"] == ("last", "hourly", "daily", "yearly")
    assert found["2026-03-02T23:35"] == ("daily",)


def test_unlimited_keeps_all_of_a_kind() -> None:
    assert len(kept(HOURS, Policy(last=UNLIMITED))) == len(HOURS)
    assert len(kept(HOURS, Policy(hourly=UNLIMITED))) == len(HOURS) // 2 + 1  # and the oldest


def test_nothing_to_judge() -> None:
    assert judge([], Policy(last=1, within=Duration(days=1))) == []
    assert Policy().empty and not Policy(last=1).empty


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1y2m3d4h", Duration(1, 2, 3, 4)),
        ("36h", Duration(hours=36)),
        ("99999y", Duration(years=99999)),
    ],
)
def test_durations(text: str, expected: Duration) -> None:
    assert parse_duration(text) == expected
    assert expected.before(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)).year <= 2025


@pytest.mark.parametrize("text", ["", "3", "1h1d", "-1h", "1w", "1" * 50 + "y"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)
