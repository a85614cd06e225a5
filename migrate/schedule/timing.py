"""When a job is due: every so often, or as a line of crontab says.

Due times follow from the rule alone and not from when the scheduler was started, so a restart
shifts nothing. Cron expressions are read by cronsim, which does as Debian's cron does, also when
clocks are put forward or back.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import zoneinfo
from dataclasses import dataclass

from migrate.errors import ScheduleError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_duration(text: str) -> float:
    """Seconds from ``90s``, ``10m``, ``1h30m`` or ``2d``.

    Raises:
        ScheduleError: It is none, or zero; reason ``bad-schedule``.
    """
    found = _DURATION.findall(text)
    total = sum(float(number) * _UNITS[unit] for number, unit in found)
    if "".join(number + unit for number, unit in found) != text or total <= 0:
        raise ScheduleError(f"{text!r} is no duration like 90s, 10m or 1h30m")
    return total


@dataclass(frozen=True, slots=True)
class Timing:
    """A rule of due times.

    Attributes:
        every_s: Due at the multiples of this since the epoch, UTC; None with *cron*.
        cron: Five fields as in man 5 crontab; None with *every_s*.
        timezone: Whose clock *cron* means.
        jitter_s: Each due time is put off by a part of this that differs from host to host.
        salt: What the part depends on besides the time.
    """

    every_s: float | None
    cron: str | None = None
    timezone: str = "UTC"
    jitter_s: float = 0.0
    salt: str = ""

    def __post_init__(self) -> None:
        if (self.every_s is None) == (self.cron is None):
            raise ScheduleError("give either an interval or a cron expression")
        if self.every_s is not None and self.every_s < 1:
            raise ScheduleError(f"an interval of {self.every_s:g} s is less than a second")
        if self.every_s is not None and self.jitter_s >= self.every_s:
            raise ScheduleError("the jitter is not less than the interval")
        self.next_after(0.0)

    def next_after(self, base: float) -> float:
        """The first due time after another, both without jitter, in seconds since the epoch."""
        if self.every_s is not None:
            return (base // self.every_s + 1) * self.every_s
        return self._next_cron(base)

    def _next_cron(self, base: float) -> float:
        from cronsim import CronSim, CronSimError

        assert self.cron is not None
        try:
            zone = zoneinfo.ZoneInfo(self.timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as exc:
            raise ScheduleError(f"there is no time zone {self.timezone!r}") from exc
        try:
            start = datetime.datetime.fromtimestamp(base, zone)
            return next(CronSim(self.cron, start)).timestamp()
        except CronSimError as exc:
            raise ScheduleError(f"cron expression {self.cron!r}: {exc}") from exc
        except StopIteration:
            raise ScheduleError(f"cron expression {self.cron!r} never comes true") from None

    def put_off(self, base: float) -> float:
        """A due time with its jitter: always the same for the same time."""
        if not self.jitter_s:
            return base
        digest = hashlib.sha256(f"{self.salt}\0{base:.3f}".encode()).digest()
        return base + self.jitter_s * int.from_bytes(digest[:6]) / (1 << 48)
