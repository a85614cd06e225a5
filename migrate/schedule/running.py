"""One run of a job: hooks, a snapshot of each container, and what no rule keeps any more.

Each snapshot is a call of ``wherry snapshot`` in a process of its own, so whatever becomes of it
happens neither to the scheduler nor to the container: a command that is told to stop or dies lets
the container go on.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from formats.errors import WherryError
from migrate.schedule.plan import Job

log = logging.getLogger(__name__)

_LAST_WORDS = 2000
_STOPS_WITHIN_S = 30.0
_CAN_BE_SAVED = ("running", "paused")


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one container in a run.

    Attributes:
        cid: Which.
        snapshot: Id of its snapshot, or None.
        error: Why there is none.
        elapsed_s, frozen_s, plain_bytes, new_bytes: As in `ContainerRecord`.
    """

    cid: str
    snapshot: str | None = None
    error: str | None = None
    elapsed_s: float = 0.0
    frozen_s: float = 0.0
    plain_bytes: int = 0
    new_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run.

    Attributes:
        taken: One for each container.
        error: What went wrong besides.
    """

    taken: tuple[Taken, ...] = ()
    error: str | None = None

    @property
    def failure(self) -> str | None:
        """A sentence when anything failed."""
        if self.error is not None:
            return self.error
        failed = [one for one in self.taken if one.error is not None]
        return None if not failed else f"{failed[0].cid}: {failed[0].error}"


class Runner(Protocol):
    """Does the work; called from several threads, for one job at a time from one only."""

    def select(self, job: Job) -> list[str]:
        """Ids of the containers that a job is about now."""

    def run(
        self, job: Job, containers: Sequence[str], *, timeout_s: float | None = None
    ) -> Outcome:
        """Save these containers; never raises for what fails.

        Args:
            job: How.
            containers: Which.
            timeout_s: For the whole of it, at the end of the host: then nothing is forgotten.
        """


def fits(job: Job, cid: str, annotations: Mapping[str, Any]) -> bool:
    """Whether a job is about a container."""
    if job.containers and not any(fnmatch.fnmatchcase(cid, one) for one in job.containers):
        return False
    return all(
        name in annotations and fnmatch.fnmatchcase(str(annotations[name]), pattern)
        for name, pattern in job.labels.items()
    )


class CommandRunner:
    """Runs jobs with the ``wherry`` command; a `Runner`.

    Args:
        root: Directory of the containers' state.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def select(self, job: Job) -> list[str]:
        """See `Runner`; containers that have stopped are left out."""
        from runtime.container import Container

        found = []
        for entry in Container.list(self._root):
            if entry.container is None:
                continue
            with contextlib.suppress(WherryError):  # it was deleted while we looked
                state = entry.container.state()
                if state["status"] in _CAN_BE_SAVED and fits(job, entry.id, state["annotations"]):
                    found.append(entry.id)
        return found

    def run(
        self, job: Job, containers: Sequence[str], *, timeout_s: float | None = None
    ) -> Outcome:
        """See `Runner`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if not containers:
            return Outcome()
        environment = {"WHERRY_JOB": job.name, "WHERRY_CONTAINERS": " ".join(containers)}
        failed = self._hook(job, job.before, "before", environment, deadline)
        if failed is not None:
            return Outcome(error=failed)
        taken = tuple(self._take(job, cid, deadline) for cid in containers)
        outcome = Outcome(taken)
        environment |= {
            "WHERRY_RESULT": "ok" if outcome.failure is None else "failed",
            "WHERRY_SNAPSHOTS": " ".join(one.snapshot for one in taken if one.snapshot),
        }
        failed = self._hook(job, job.after, "after", environment, deadline)
        if failed is None and deadline is None:
            failed = self._forget(job, [one.cid for one in taken if one.snapshot])
        return Outcome(taken, failed)

    def _take(self, job: Job, cid: str, deadline: float | None) -> Taken:
        limit = [] if job.bandwidth is None else ["--bwlimit", job.bandwidth]
        tags = [f"--tag={tag}" for tag in job.tags]
        # Who is in a hurry has no use for a niceness.
        arguments = [
            "snapshot",
            "--json",
            "--leave-running",
            "--store",
            job.store,
            *job.unlock,
            *tags,
        ]
        started = time.monotonic()
        timeout_s = job.timeout_s if deadline is None else max(0.0, deadline - started)
        try:
            said = self._wherry(
                [*arguments, *(limit if deadline is None else []), *job.options, cid],
                [] if deadline is not None else _slower(job),
                timeout_s,
            )
            made = json.loads(said)["snapshot"]
            return Taken(
                cid,
                made["id"],
                None,
                time.monotonic() - started,
                made["frozen_ns"] / 1e9,
                made["plain_bytes"],
                made["new_bytes"],
            )
        except _FailedError as exc:
            error = str(exc)
        except (ValueError, KeyError, TypeError) as exc:
            error = f"wherry snapshot printed no report ({exc})"
        log.warning("job %s: %s: %s", job.name, cid, error)
        return Taken(cid, error=error, elapsed_s=time.monotonic() - started)

    def _forget(self, job: Job, containers: Iterable[str]) -> str | None:
        """Apply the job's rules; a sentence when that fails."""
        if not job.keep:
            return None
        rules = [f"--keep-{name}={value}" for name, value in job.keep.items()]
        for cid in containers:
            prune = ["--prune"] if job.prune else []
            arguments = ["forget", "--json", "--store", job.store, *job.unlock]
            try:
                self._wherry(
                    [*arguments, "--container", cid, *rules, *prune], _slower(job), job.timeout_s
                )
            except _FailedError as exc:
                return f"{cid}: the snapshot was made, but old ones were not removed: {exc}"
        return None

    def _hook(
        self,
        job: Job,
        command: Sequence[str],
        which: str,
        environment: Mapping[str, str],
        deadline: float | None,
    ) -> str | None:
        """Run a hook; a sentence when it fails."""
        if not command:
            return None
        left = job.hook_timeout_s
        if deadline is not None:
            left = min(left, max(0.0, deadline - time.monotonic()))
        try:
            _call(list(command), left, {**os.environ, **environment})
        except _FailedError as exc:
            log.warning("job %s: the hook %s: %s", job.name, which, exc)
            return f"the hook {which!r}: {exc}"
        return None

    def _wherry(self, arguments: Sequence[str], slower: Sequence[str], timeout_s: float) -> str:
        program = [sys.executable, "-P", "-m", "migrate.cli.main", "--root", str(self._root)]
        return _call([*slower, *program, *arguments], timeout_s, dict(os.environ))


class _FailedError(Exception):
    """A command failed; the sentence is its own."""


def _slower(job: Job) -> list[str]:
    """What stands before a command that shall leave processor time to others."""
    nice = ["nice", "-n", str(job.nice)] if job.nice else []
    return [*nice, *(["taskset", "--cpu-list", job.cpus] if job.cpus is not None else [])]


def _call(command: list[str], timeout_s: float, environment: dict[str, str]) -> str:
    """Run a command to its end and return what it printed.

    Its session is its own: what a terminal sends to the scheduler does not break it off.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as exc:
        raise _FailedError(f"{command[0]}: {exc.strerror}") from exc
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.terminate()  # wherry lets the container go on, tidies up and ends
        try:
            process.communicate(timeout=_STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        raise _FailedError(f"it took longer than {timeout_s:g} s and was stopped") from None
    if process.returncode != 0:
        words = errors.decode("utf-8", "replace").strip()[-_LAST_WORDS:]
        raise _FailedError(words.removeprefix("wherry: ") or f"exit status {process.returncode}")
    return output.decode("utf-8", "replace")
