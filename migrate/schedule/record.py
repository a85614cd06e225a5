"""What a scheduler has done, in a file that others may read while it works.

The file is written anew after every change and appears under its name when it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from migrate.errors import ScheduleError

T = TypeVar("T")


@dataclass
class ContainerRecord:
    """The newest run for one container.

    Attributes:
        snapshot: Id of the newest snapshot that was made, or None.
        snapshot_time: When, in seconds since the epoch.
        error: Why the newest run made none; None when it did.
        elapsed_s: The newest snapshot's time from beginning to end.
        frozen_s: How long the container stood still for it.
        plain_bytes, new_bytes: Its size, and what the store did not have before.
        snapshots, failures: How many there were, in all.
    """

    snapshot: str | None = None
    snapshot_time: float | None = None
    error: str | None = None
    elapsed_s: float = 0.0
    frozen_s: float = 0.0
    plain_bytes: int = 0
    new_bytes: int = 0
    snapshots: int = 0
    failures: int = 0


@dataclass
class JobRecord:
    """One job's past and future.

    Attributes:
        rule: Its timing, to notice that it was changed.
        base: The due time that comes next, without jitter.
        next_due: With it, in seconds since the epoch.
        last_start, last_end: Of the newest run.
        error: Why the newest run failed; None when it did not.
        runs, failures: How many runs there were, and how many of them failed.
        skipped: Due times that came while a run was going on.
        missed: How often due times passed while nobody was there.
        retry_at: When the newest run is tried again; None when it is not.
        attempts: How often the newest run has been tried.
        running: Whether one is going on.
        containers: By id.
    """

    rule: str = ""
    base: float = 0.0
    next_due: float = 0.0
    last_start: float | None = None
    last_end: float | None = None
    error: str | None = None
    runs: int = 0
    failures: int = 0
    skipped: int = 0
    missed: int = 0
    retry_at: float | None = None
    attempts: int = 0
    running: bool = False
    containers: dict[str, ContainerRecord] = field(default_factory=dict)


def read_records(path: Path) -> dict[str, JobRecord]:
    """What a scheduler has written; empty when there was none.

    Raises:
        ScheduleError: The file cannot be read or is none of ours; reason ``schedule-state``.
    """
    try:
        document = json.loads(path.read_text())
        jobs = {}
        for name, values in document["jobs"].items():
            containers = values.pop("containers", {})
            jobs[name] = _made(JobRecord, values)
            jobs[name].containers = {
                cid: _made(ContainerRecord, one) for cid, one in containers.items()
            }
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise ScheduleError(f"{path}: {exc.strerror}", reason="schedule-state") from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ScheduleError(
            f"{path}: not written by a scheduler ({exc}); remove it to begin anew",
            reason="schedule-state",
        ) from exc
    return jobs


def _made(kind: type[T], values: dict[str, Any]) -> T:
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in known})


def write_records(path: Path, records: dict[str, JobRecord]) -> None:
    """Replace the file by what is so now.

    Raises:
        OSError: It cannot be written; the old one is still there.
    """
    document = {"version": 1, "jobs": {name: asdict(job) for name, job in records.items()}}
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the right to write a file of records.

    Raises:
        ScheduleError: Another scheduler has it, ``schedule-running``; or there is no such place.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise ScheduleError(f"{path}: {exc.strerror}", reason="schedule-state") from exc
    with open(descriptor) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ScheduleError(
                f"{path}: another scheduler writes this; give each one a state file of its own",
                reason="schedule-running",
            ) from None
        yield


def is_running(path: Path) -> bool:
    """Whether a scheduler holds the right to write these records."""
    try:
        with open(f"{path}.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
