"""Which snapshots stay: a policy in restic's words, as a pure function. All times are UTC.

Snapshots are looked at from the newest to the oldest. A rule for hours, days, weeks (ISO), months
or years keeps the newest snapshot of each, until it has kept as many as it says. The oldest of all
is kept, too, by a rule that could not keep so many. `within` counts back from the newest snapshot,
not from now: a job that has ended loses nothing by that.
"""

from __future__ import annotations

import calendar
import datetime
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

UNLIMITED = -1

_DURATION = re.compile(r"(?:(\d+)y)?(?:(\d+)m)?(?:(\d+)d)?(?:(\d+)h)?")


class Dated(Protocol):
    """What a policy judges."""

    @property
    def created_ns(self) -> int:
        """Wall-clock time, nanoseconds since 1970 UTC."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags."""


D = TypeVar("D", bound=Dated)


@dataclass(frozen=True, slots=True)
class Duration:
    """A time span as calendars count: two months from the 15th reach to the 15th."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    def before(self, moment: datetime.datetime) -> datetime.datetime:
        """The moment that is so long before *moment*."""
        month = moment.year * 12 + moment.month - 1 - self.years * 12 - self.months
        if month < 12:
            return datetime.datetime.min.replace(tzinfo=datetime.UTC)
        year, month = divmod(month, 12)
        day = min(moment.day, calendar.monthrange(year, month + 1)[1])
        earlier = moment.replace(year=year, month=month + 1, day=day)
        try:
            return earlier - datetime.timedelta(days=self.days, hours=self.hours)
        except OverflowError:
            return datetime.datetime.min.replace(tzinfo=datetime.UTC)


def parse_duration(text: str) -> Duration:
    """Read ``1y2m3d4h``, any part of which may be left out; ValueError for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None or not text or len(text) > 40:
        raise ValueError(f"{text!r} is no duration; write 1y2m3d4h, or some of these")
    return Duration(*(int(part or 0) for part in match.groups()))


@dataclass(frozen=True, slots=True)
class Policy:
    """What to keep; a count of -1 keeps all.

    Attributes:
        last: The newest so many.
        hourly, daily, weekly, monthly, yearly: The newest of each of the last so many.
        within: All that are younger than this, counted from the newest.
        tags: All that have every tag of one of these sets.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: Duration | None = None
    tags: tuple[frozenset[str], ...] = ()

    @property
    def empty(self) -> bool:
        """Whether it says nothing: then nobody should forget anything by it."""
        return self == Policy()


@dataclass(frozen=True, slots=True)
class Verdict(Generic[D]):
    """What becomes of one snapshot.

    Attributes:
        item: The snapshot.
        reasons: The rules that keep it; none for one that goes.
    """

    item: D
    reasons: tuple[str, ...]

    @property
    def keeps(self) -> bool:
        """Whether it stays."""
        return bool(self.reasons)


class _Bucket:
    """One rule that counts."""

    def __init__(self, name: str, count: int, key: Callable[[datetime.datetime], object]) -> None:
        self._name = name
        self._left = count
        self._key = key
        self._last: object = None

    def judge(self, moment: datetime.datetime, *, oldest: bool) -> str | None:
        if not self._left:
            return None
        key = self._key(moment)
        if key == self._last and not oldest:
            return None
        reason = f"oldest {self._name}" if key == self._last else self._name
        self._last = key
        if self._left > 0:
            self._left -= 1
        return reason


def judge(items: Sequence[D], policy: Policy) -> list[Verdict[D]]:
    """Judge the snapshots of one container.

    Args:
        items: In any order.
        policy: One that is not empty.

    Returns:
        A verdict for each, the newest first.
    """
    ordered = sorted(items, key=lambda item: item.created_ns, reverse=True)
    numbers = iter(range(len(ordered)))
    buckets = [
        _Bucket("last", policy.last, lambda _: next(numbers)),
        _Bucket("hourly", policy.hourly, lambda at: (at.date(), at.hour)),
        _Bucket("daily", policy.daily, lambda at: at.date()),
        _Bucket("weekly", policy.weekly, lambda at: at.isocalendar()[:2]),
        _Bucket("monthly", policy.monthly, lambda at: (at.year, at.month)),
        _Bucket("yearly", policy.yearly, lambda at: at.year),
    ]
    limit = None
    if policy.within is not None and ordered:
        limit = policy.within.before(_moment(ordered[0]))
    verdicts = []
    for number, item in enumerate(ordered):
        moment = _moment(item)
        reasons = [f"tag {','.join(sorted(tags))}" for tags in policy.tags if tags <= {*item.tags}]
        if limit is not None and moment > limit:
            reasons.append("within")
        oldest = number == len(ordered) - 1
        found = [bucket.judge(moment, oldest=oldest) for bucket in buckets]
        reasons += [reason for reason in found if reason is not None]
        verdicts.append(Verdict(item, tuple(reasons)))
    return verdicts


def _moment(item: Dated) -> datetime.datetime:
    # Whole microseconds: a float would lose some of them.
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return epoch + datetime.timedelta(microseconds=item.created_ns // 1000)
