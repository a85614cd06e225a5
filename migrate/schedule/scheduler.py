"""The scheduler: sees what is due, has it done, remembers what became of it.

One thread decides; runs happen in threads of their own, one for each job, and report back through
a queue. So a slow job delays no other one, and nothing here needs a lock. Time comes from a
`Clock` only.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from migrate.schedule.clock import Clock
from migrate.schedule.plan import Job, Plan
from migrate.schedule.record import ContainerRecord, JobRecord, read_records, write_records
from migrate.schedule.running import Outcome, Runner

log = logging.getLogger(__name__)

MISSED_AFTER_S = 60.0
"""Who is so late was not there at the time: the host slept, or the scheduler did not run."""
_MAX_RETRY_DELAY_S = 900.0

Spawn = Callable[[Callable[[], None]], None]
"""Has something done, in a thread or at once."""


def in_a_thread(work: Callable[[], None]) -> None:
    """Do something in a thread that does not keep the process alive."""
    threading.Thread(target=work, name="schedule-run", daemon=True).start()


class Scheduler:
    """Runs the jobs of a plan.

    Args:
        plan: The jobs.
        runner: Does the work.
        clock: Tells the time.
        spawn: How a run is started.
    """

    def __init__(
        self, plan: Plan, runner: Runner, clock: Clock, spawn: Spawn = in_a_thread
    ) -> None:
        self._plan, self._runner, self._clock, self._spawn = plan, runner, clock, spawn
        self._jobs = {job.name: job for job in plan.jobs}
        self._wake = threading.Event()
        self._stopping = False
        self._snapshot_now = False
        self._queued: set[str] = set()
        self._idle = {name: threading.Event() for name in self._jobs}
        for event in self._idle.values():
            event.set()
        self._ended: queue.SimpleQueue[tuple[str, Outcome]] = queue.SimpleQueue()
        self.records = self._restored()

    def _restored(self) -> dict[str, JobRecord]:
        old = read_records(self._plan.state)
        records = {}
        now = self._clock.now()
        for job in self._plan.jobs:
            record = old.get(job.name, JobRecord())
            rule = repr(asdict(job.timing))
            record.running, record.retry_at = False, None
            if record.rule != rule:
                record.rule = rule
                self._plan_next(job, record, now)
            records[job.name] = record
        return records

    # From other threads and signal handlers

    def stop(self) -> None:
        """End `run` after a last snapshot of everything."""
        self._stopping = True
        self._wake.set()

    def snapshot_now(self) -> None:
        """Save everything that is selected, now."""
        self._snapshot_now = True
        self._wake.set()

    # The loop

    def run(self) -> Mapping[str, Outcome]:
        """Work until `stop` is called.

        Returns:
            What became of the last snapshots, by job.

        Raises:
            OSError: The state file cannot be written.
        """
        self._save()
        while not self._stopping:
            self.tick()
            if not self._stopping:
                self._clock.wait(self.next_event(), self._wake)
            self._wake.clear()
        return self._finish()

    def tick(self) -> None:
        """Do what is to be done at this moment."""
        self._collect()
        now = self._clock.now()
        if self._snapshot_now:
            self._snapshot_now = False
            for job in self._plan.jobs:
                self._start_or(job, "queue", now)
        for job in self._plan.jobs:
            record = self.records[job.name]
            # Somebody has put the clock back: what was planned by the old one is too far away.
            if record.base > job.timing.next_after(now):
                self._plan_next(job, record, now)
            if now >= record.next_due:
                self._due(job, record, now)
            elif record.retry_at is not None and now >= record.retry_at and not record.running:
                record.retry_at = None
                self._start(job, record, now)
        self._collect()
        self._save()

    def next_event(self) -> float:
        """When there is something to do next, in seconds since the epoch."""
        times = [record.next_due for record in self.records.values()]
        times += [
            record.retry_at
            for record in self.records.values()
            if record.retry_at is not None and not record.running
        ]
        return min(times)

    def _due(self, job: Job, record: JobRecord, now: float) -> None:
        late_s = now - record.next_due
        self._plan_next(job, record, now)
        if late_s > MISSED_AFTER_S:
            record.missed += 1
            log.warning("job %s: nobody was there when it was due, %.0f s ago", job.name, late_s)
            if job.missed == "skip":
                return
        record.attempts, record.retry_at = 0, None
        self._start_or(job, job.overlap, now)

    def _start_or(self, job: Job, overlap: str, now: float) -> None:
        record = self.records[job.name]
        if not record.running:
            record.attempts = 0
            self._start(job, record, now)
        elif overlap == "queue":
            self._queued.add(job.name)
        else:
            record.skipped += 1
            log.warning("job %s: it is due and still running; skipped", job.name)

    def _start(self, job: Job, record: JobRecord, now: float) -> None:
        record.running, record.last_start = True, now
        record.attempts += 1
        self._idle[job.name].clear()
        self._save()

        def work() -> None:
            try:
                outcome = self._runner.run(job, self._runner.select(job))
            except Exception as exc:  # a bug in one run must not end the service
                log.exception("job %s", job.name)
                outcome = Outcome(error=f"internal error: {type(exc).__name__}: {exc}")
            self._ended.put((job.name, outcome))
            self._idle[job.name].set()
            self._wake.set()

        self._spawn(work)

    def _collect(self) -> None:
        """Take note of the runs that have ended."""
        while not self._ended.empty():
            name, outcome = self._ended.get()
            job, record, now = self._jobs[name], self.records[name], self._clock.now()
            record.running = False
            note(record, outcome, now)
            if outcome.failure is None:
                record.attempts = 0
            elif record.attempts <= job.retries:
                delay_s = job.retry_delay_s * 2 ** (record.attempts - 1)
                record.retry_at = now + min(delay_s, _MAX_RETRY_DELAY_S)
            if name in self._queued:
                self._queued.discard(name)
                record.attempts, record.retry_at = 0, None
                self._start(job, record, now)

    def _plan_next(self, job: Job, record: JobRecord, after: float) -> None:
        record.base = job.timing.next_after(after)
        record.next_due = job.timing.put_off(record.base)

    def _save(self) -> None:
        write_records(Path(self._plan.state), self.records)

    # The end

    def _finish(self) -> dict[str, Outcome]:
        """Save everything that is selected, each container once for each store, all at once."""
        self._queued.clear()
        deadline = time.monotonic() + self._plan.final_timeout_s
        done: set[tuple[str, str]] = set()
        outcomes: dict[str, Outcome] = {}
        threads = []
        for job in self._plan.jobs:
            containers = [cid for cid in self._runner.select(job) if (cid, job.store) not in done]
            done |= {(cid, job.store) for cid in containers}
            if not containers:
                continue

            def work(job: Job = job, containers: list[str] = containers) -> None:
                # A snapshot that is on its way saves an older moment, and holds the container.
                self._idle[job.name].wait(max(0.0, deadline - time.monotonic()))
                left_s = max(0.0, deadline - time.monotonic())
                try:
                    outcome = self._runner.run(job, containers, timeout_s=left_s)
                except Exception as exc:
                    log.exception("job %s", job.name)
                    outcome = Outcome(error=f"internal error: {type(exc).__name__}: {exc}")
                outcomes[job.name] = outcome

            log.info("job %s: last snapshots of %s", job.name, ", ".join(containers))
            threads.append(threading.Thread(target=work, name="schedule-end"))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._collect()
        for name, outcome in outcomes.items():
            note(self.records[name], outcome, self._clock.now())
        for record in self.records.values():
            record.running, record.retry_at = False, None
        self._save()
        return outcomes


def note(record: JobRecord, outcome: Outcome, now: float) -> None:
    """Write what became of a run into a job's record."""
    record.last_end = now
    record.runs += 1
    record.error = outcome.failure
    if outcome.failure is not None:
        record.failures += 1
    for taken in outcome.taken:
        one = record.containers.setdefault(taken.cid, ContainerRecord())
        one.error = taken.error
        if taken.error is not None:
            one.failures += 1
            continue
        one.snapshots += 1
        one.snapshot, one.snapshot_time = taken.snapshot, now
        one.elapsed_s, one.frozen_s = taken.elapsed_s, taken.frozen_s
        one.plain_bytes, one.new_bytes = taken.plain_bytes, taken.new_bytes
