"""What shall be saved when: the schedule's TOML file, read strictly.

A key that we do not know is refused with its place: a misspelt ``keep`` must not come to light when
everything has been kept, or nothing.
"""

from __future__ import annotations

import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from migrate.errors import MigrateError, ScheduleError
from migrate.rate_limit import parse_rate
from migrate.retention import parse_duration as parse_age
from migrate.schedule.timing import Timing, parse_duration

DEFAULT_STATE = Path("/var/lib/wherry/schedule.json")
KEEP_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
UNLOCK = ("password-file", "password-command", "key-file", "identity")
OVERLAP = ("skip", "queue")
MISSED = ("skip", "run-now")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CPUS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """One entry of a schedule.

    Attributes:
        name: Unique in the schedule.
        timing: When it is due.
        store: The store's URL.
        containers: Patterns of ids, as a shell has them; a container fits when one does.
        labels: Annotations that a container has, with patterns of their values; all must fit.
        tags: Of the snapshots.
        keep: Options of ``wherry forget`` by name, for instance ``{"last": "5"}``; empty to keep
            all.
        prune: Whether to prune after forgetting.
        overlap: When it is due while it runs: one of `OVERLAP`.
        missed: When it was due while nobody was there: one of `MISSED`.
        bandwidth: Bytes per second to the store, as ``20M``; None for all there is.
        nice: Added to the niceness of whoever saves.
        cpus: Processors that may be used, as ``0-1,4``; None for all.
        before, after: Commands around each run.
        hook_timeout_s, timeout_s: For each hook; for each snapshot.
        retries: How often a failed run is tried again.
        retry_delay_s: Before the first of these; doubles with each.
        unlock: Options that unlock the store, for instance ``("--key-file=/etc/wherry/key",)``.
        options: More options of ``wherry snapshot``.
    """

    name: str
    timing: Timing
    store: str
    containers: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    keep: Mapping[str, str] = field(default_factory=dict)
    prune: bool = False
    overlap: str = "skip"
    missed: str = "skip"
    bandwidth: str | None = None
    nice: int = 0
    cpus: str | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    hook_timeout_s: float = 60.0
    timeout_s: float = 3600.0
    retries: int = 3
    retry_delay_s: float = 10.0
    unlock: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """A command that tells of the host's end: it exits with 0 when the end is near.

    Attributes:
        command: Program and arguments.
        every_s: How often it is asked.
    """

    command: tuple[str, ...]
    every_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole schedule.

    Attributes:
        jobs: In the order of the file.
        state: Where the scheduler writes what it did.
        metrics_port: Where it tells Prometheus, on loopback; None for nowhere.
        final_timeout_s: For the snapshots at the end of the host.
        notice: Tells of that end, besides SIGTERM.
    """

    jobs: tuple[Job, ...]
    state: Path = DEFAULT_STATE
    metrics_port: int | None = None
    final_timeout_s: float = 90.0
    notice: Notice | None = None


def load_plan(path: Path) -> Plan:
    """Read a schedule.

    Raises:
        ScheduleError: It cannot be read, or makes no sense; with the place.
    """
    try:
        with path.open("rb") as file:
            return parse_plan(tomllib.load(file), str(path))
    except OSError as exc:
        raise ScheduleError(f"{path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ScheduleError(f"{path}: {exc}") from exc


def parse_plan(document: Mapping[str, Any], where: str) -> Plan:
    """A schedule from what TOML says.

    Args:
        document: The top table.
        where: Its name, for messages.

    Raises:
        ScheduleError: It makes no sense.
    """
    top = _Table(document, where)
    jobs = tuple(
        _job(_Table(table, f"{where}: job {number + 1}"))
        for number, table in enumerate(top.take("job", _tables, ()))
    )
    notice = top.take("notice", dict)
    plan = Plan(
        jobs,
        Path(top.take("state", str, str(DEFAULT_STATE))),
        top.take("metrics", _port),
        top.take("final_timeout", _duration, 90.0),
        None if notice is None else _notice(_Table(notice, f"{where}: notice")),
    )
    top.end()
    if not jobs:
        raise ScheduleError(f"{where}: no [[job]]")
    names = [job.name for job in jobs]
    for name in names:
        if names.count(name) > 1:
            raise ScheduleError(f"{where}: two jobs are called {name!r}")
    return plan


def _notice(table: _Table) -> Notice:
    notice = Notice(table.need("command", _words), table.take("every", _duration, 5.0))
    table.end()
    return notice


def _job(table: _Table) -> Job:
    name = table.need("name", _name)
    table.where = f"{table.where} ({name})"
    keep = table.take("keep", dict, {})
    job = Job(
        name=name,
        timing=_timing(table, name),
        store=table.need("store", str),
        containers=table.take("containers", _words, ()),
        labels=table.take("labels", _strings, {}),
        tags=table.take("tags", _words, ()),
        keep=_keep(_Table(keep, f"{table.where}: keep")),
        prune=table.take("prune", bool, False),
        overlap=table.take("overlap", _one_of(OVERLAP), "skip"),
        missed=table.take("missed", _one_of(MISSED), "skip"),
        bandwidth=table.take("bandwidth", _rate),
        nice=table.take("nice", _niceness, 0),
        cpus=table.take("cpus", _cpus),
        before=table.take("before", _words, ()),
        after=table.take("after", _words, ()),
        hook_timeout_s=table.take("hook_timeout", _duration, 60.0),
        timeout_s=table.take("timeout", _duration, 3600.0),
        retries=table.take("retries", _count, 3),
        retry_delay_s=table.take("retry_delay", _duration, 10.0),
        unlock=_unlock(table),
        options=table.take("options", _words, ()),
    )
    table.end()
    if not job.containers and not job.labels:
        raise ScheduleError(f"{table.where}: give containers or labels; ['*'] are all")
    return job


def _timing(table: _Table, name: str) -> Timing:
    every, cron = table.take("every", _duration), table.take("cron", str)
    timezone, jitter = table.take("timezone", str, "UTC"), table.take("jitter", _duration, 0.0)
    try:
        return Timing(every, cron, timezone, jitter, f"{socket.gethostname()}/{name}")
    except ScheduleError as exc:
        raise ScheduleError(f"{table.where}: {exc}") from None


def _unlock(table: _Table) -> tuple[str, ...]:
    found = {name: table.take(name.replace("-", "_"), str) for name in UNLOCK}
    given = tuple(f"--{name}={value}" for name, value in found.items() if value is not None)
    if len(given) > 1:
        raise ScheduleError(f"{table.where}: give one of {', '.join(UNLOCK)}")
    return given


def _keep(table: _Table) -> dict[str, str]:
    found = {name: table.take(name, _keep_count) for name in KEEP_COUNTS}
    keep = {name: str(count) for name, count in found.items() if count is not None}
    within, tag = table.take("within", _keep_within), table.take("tag", str)
    keep |= {} if within is None else {"within": within}
    keep |= {} if tag is None else {"tag": tag}
    table.end()
    return keep


class _Table:
    """A table of the file, whose keys are taken out one by one."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._left = dict(values)
        self.where = where

    def take(self, key: str, convert: Callable[[Any], T], default: Any = None) -> Any:
        """The value of a key, judged; *default* when it is not there."""
        if key not in self._left:
            return default
        value = self._left.pop(key)
        try:
            if isinstance(convert, type):
                if not isinstance(value, convert):
                    raise ValueError(f"{value!r} is no {_WORDS[convert]}")
                return value
            return convert(value)
        except (ValueError, MigrateError) as exc:
            raise ScheduleError(f"{self.where}: {key}: {exc}") from exc

    def need(self, key: str, convert: Callable[[Any], T]) -> T:
        """The value of a key that must be there."""
        if key not in self._left:
            raise ScheduleError(f"{self.where}: there is no {key!r}")
        return cast("T", self.take(key, convert))

    def end(self) -> None:
        """Refuse what has not been taken."""
        if self._left:
            raise ScheduleError(f"{self.where}: {next(iter(self._left))!r} is not known")


_WORDS: dict[type, str] = {str: "string", bool: "true or false", dict: "table"}


def _tables(value: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError("write [[job]]")
    return tuple(value)


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"{value!r} is no list of strings")
    return tuple(value)


def _strings(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError(f"{value!r} is no table of strings")
    return value


def _duration(value: Any) -> float:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no duration like '10m'")
    return parse_duration(value)


def _keep_within(value: Any) -> str:
    parse_age(str(value))
    return str(value)


def _rate(value: Any) -> str:
    parse_rate(str(value))
    return str(value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not made of letters, digits, dots, hyphens, underscores")
    return value


def _cpus(value: Any) -> str:
    if not isinstance(value, str) or _CPUS.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not like '0-1,4'")
    return value


def _number(low: int, high: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"{value!r} is no number from {low} to {high}")
        return value

    return convert


_port, _niceness = _number(0, 65535), _number(0, 19)
_count, _keep_count = _number(0, 1000), _number(-1, 1_000_000)


def _one_of(words: tuple[str, ...]) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in words:
            raise ValueError(f"{value!r} is none of {', '.join(words)}")
        return str(value)

    return convert
