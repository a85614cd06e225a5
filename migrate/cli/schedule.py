"""``wherry schedule``: snapshots at set times."""

from __future__ import annotations

import datetime
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from migrate.cli.options import Settings, pass_settings, print_json
from migrate.cli.table import print_table

if TYPE_CHECKING:
    from migrate.schedule.plan import Plan
    from migrate.schedule.record import JobRecord

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_FILE = Path("/etc/wherry/schedule.toml")
_SECRETS = ("password-file", "password-command", "key-file", "identity")
_UNLOCK = "Unlocks the store, as for wherry snapshot."
_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


@click.group("schedule")
def command() -> None:
    """Take snapshots at set times, and drop what no rule keeps.

    What to do comes from a file (--file), or for a single job from options. docs/schedules.md
    describes both.
    """


def plan_options(function: F) -> F:
    """Give a command the options that make a plan."""
    for option in reversed(_plan_options()):
        function = option(function)
    return function


def _plan_options() -> list[Callable[[F], F]]:
    path = click.Path(dir_okay=False, path_type=Path)
    return [
        click.option("--file", "-f", "file", type=path, help=f"Default: {DEFAULT_FILE}."),
        click.option("--state", type=path, help="Where to remember what was done."),
        click.option("--metrics", type=int, metavar="PORT", help="Tell Prometheus, on loopback."),
        click.option("--store", metavar="URL", envvar="WHERRY_STORE", help="Of the one job."),
        *(click.option(f"--{name}", metavar="…", help=_UNLOCK) for name in _SECRETS),
        click.option("--container", "containers", multiple=True, metavar="PATTERN"),
        click.option("--label", "labels", multiple=True, metavar="ANNOTATION=PATTERN"),
        click.option("--every", metavar="DURATION", help="For instance 10m."),
        click.option("--cron", metavar="FIELDS", help="Five fields, as in man 5 crontab."),
        click.option("--timezone", metavar="ZONE", help="Of --cron; UTC."),
        click.option("--jitter", metavar="DURATION"),
        click.option("--overlap", type=click.Choice(["skip", "queue"])),
        click.option("--missed", type=click.Choice(["skip", "run-now"])),
        click.option("--bwlimit", "bandwidth", metavar="RATE", help="For instance 20M."),
        click.option("--nice", type=int),
        click.option("--cpus", metavar="LIST", help="For instance 0-1."),
        click.option("--tag", "tags", multiple=True),
        click.option("--before", metavar="COMMAND", help="For sh; before each run."),
        click.option("--after", metavar="COMMAND", help="For sh; after each run."),
        *(click.option(f"--keep-{name}", type=int, metavar="N") for name in _COUNTS),
        click.option("--keep-within", metavar="DURATION"),
        click.option("--keep-tag", metavar="TAG[,TAG]..."),
        click.option("--prune", is_flag=True, help="Reclaim the space of what is dropped."),
    ]


def plan_from(
    file: Path | None, state: Path | None, metrics: int | None, options: dict[str, Any]
) -> Plan:
    """The plan of a file, or of the options that describe one job."""
    from migrate.schedule.plan import load_plan, parse_plan

    given = {name: value for name, value in options.items() if value}
    store = given.pop("store", None)
    if file is not None or not given:
        if given:
            raise click.UsageError("give --file or the options of one job, not both")
        plan = load_plan(DEFAULT_FILE if file is None else file)
    else:
        plan = parse_plan({"job": [_job_table(given, store)]}, "options")
    changes: dict[str, Any] = {}
    if state is not None:
        changes["state"] = state.absolute()
    if metrics is not None:
        changes["metrics_port"] = metrics
    import dataclasses

    return dataclasses.replace(plan, **changes)


def _job_table(given: dict[str, Any], store: str | None) -> dict[str, Any]:
    table: dict[str, Any] = {"name": "job"}
    if store is not None:
        table["store"] = store
    for name, value in given.items():
        if name == "labels":
            pairs = [label.partition("=") for label in value]
            if not all(middle for _, middle, _ in pairs):
                raise click.UsageError("--label is ANNOTATION=PATTERN")
            table[name] = {key: pattern for key, _, pattern in pairs}
        elif name in ("before", "after"):
            table[name] = ["sh", "-c", value]
        elif name.startswith("keep_"):
            table.setdefault("keep", {})[name.removeprefix("keep_")] = value
        else:
            table[name] = list(value) if isinstance(value, tuple) else value
    return table


@command.command("run")
@plan_options
@pass_settings
def run(
    settings: Settings,
    /,
    file: Path | None,
    state: Path | None,
    metrics: int | None,
    **options: Any,
) -> int:
    """Work in the foreground until told to stop.

    SIGTERM and SIGINT: a last snapshot of everything, then the end; exits with 1 when one of them
    failed. SIGUSR1: a snapshot of everything, now.
    """
    import contextlib

    from migrate.schedule.clock import SystemClock
    from migrate.schedule.metrics import serving
    from migrate.schedule.notice import watch
    from migrate.schedule.record import only_one
    from migrate.schedule.running import CommandRunner, Outcome
    from migrate.schedule.scheduler import Scheduler

    plan = plan_from(file, state, metrics, options)
    with only_one(plan.state), contextlib.ExitStack() as stack:
        scheduler = Scheduler(plan, CommandRunner(settings.root), SystemClock())
        if plan.metrics_port is not None:
            port = stack.enter_context(serving(plan.metrics_port, scheduler.records))
            click.echo(f"metrics at http://127.0.0.1:{port}/metrics")
        outcomes: list[Outcome] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                outcomes.extend(scheduler.run().values())
            except BaseException as exc:
                failure.append(exc)

        over = threading.Event()
        stack.callback(over.set)
        if plan.notice is not None:
            threading.Thread(
                target=watch, args=(plan.notice, scheduler.snapshot_now, over), daemon=True
            ).start()
        # A handler runs in this thread, which therefore holds none of the scheduler's locks.
        worker = threading.Thread(target=work, name="scheduler")
        _on(scheduler.stop, signal.SIGTERM, signal.SIGINT)
        _on(scheduler.snapshot_now, signal.SIGUSR1)
        worker.start()
        click.echo(f"{len(plan.jobs)} jobs; the state is in {plan.state}")
        sys.stdout.flush()
        worker.join()
    if failure:
        raise failure[0]
    for outcome in outcomes:
        if outcome.failure is not None:
            click.echo(f"the last snapshot failed: {outcome.failure}", err=True)
    return int(any(outcome.failure is not None for outcome in outcomes))


def _on(act: Callable[[], None], *signums: int) -> None:
    def handler(_signum: int, _frame: FrameType | None) -> None:
        act()

    for signum in signums:
        signal.signal(signum, handler)


@command.command("check")
@plan_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@pass_settings
def check(
    settings: Settings,
    /,
    file: Path | None,
    state: Path | None,
    metrics: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what a schedule would do, without doing it: which containers, and when next."""
    import time

    from migrate.schedule.running import CommandRunner

    plan = plan_from(file, state, metrics, options)
    runner = CommandRunner(settings.root)
    rows = []
    for job in plan.jobs:
        due, times = time.time(), []
        for _ in range(3):
            due = job.timing.next_after(due)
            times.append(job.timing.put_off(due))
        rows.append((job, runner.select(job), times))
    if as_json:
        print_json(
            [
                {"job": job.name, "store": job.store, "containers": cids, "next": times}
                for job, cids, times in rows
            ]
        )
        return
    print_table(
        ("JOB", "NEXT", "THEN", "AND", "STORE", "CONTAINERS"),
        [
            (job.name, *map(_moment, times), job.store, " ".join(cids) or "-")
            for job, cids, times in rows
        ],
    )


@command.command("status")
@click.option("--file", "-f", "file", type=click.Path(path_type=Path), help="The schedule.")
@click.option("--state", type=click.Path(path_type=Path), help="What the scheduler remembers.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def status(file: Path | None, state: Path | None, as_json: bool) -> None:
    """Show what was done last and what comes next."""
    from dataclasses import asdict

    from migrate.schedule.plan import DEFAULT_STATE, load_plan
    from migrate.schedule.record import is_running, read_records

    path = state or (load_plan(file).state if file is not None else DEFAULT_STATE)
    records = read_records(path)
    running = is_running(path)
    if as_json:
        jobs = {name: asdict(record) for name, record in records.items()}
        print_json({"state": str(path), "scheduler_running": running, "jobs": jobs})
        return
    print_table(
        (
            *("JOB", "CONTAINER", "LAST", "TOOK", "FROZEN", "SIZE", "NEW", "FAILURES", "NEXT"),
            "RESULT",
        ),
        [row for name, record in records.items() for row in _rows(name, record, running)],
    )
    if not running:
        click.echo(f"no scheduler is running with {path}", err=True)


def _rows(name: str, record: JobRecord, running: bool) -> list[tuple[str, ...]]:
    from migrate.cli.human import human_bytes, human_time

    following = _moment(record.next_due) if running else "-"
    doing = "running" if record.running and running else None
    if not record.containers:
        result = doing or record.error or ("ok" if record.runs else "not yet")
        dashes = ("-",) * 5
        last = _moment(record.last_end)
        return [(name, "-", last, *dashes[1:], str(record.failures), following, result)]
    return [
        (
            *(name, cid, _moment(one.snapshot_time), human_time(one.elapsed_s * 1e9)),
            *(human_time(one.frozen_s * 1e9), human_bytes(one.plain_bytes)),
            *(human_bytes(one.new_bytes), str(one.failures), following),
            doing or one.error or record.error or "ok",
        )
        for cid, one in sorted(record.containers.items())
    ]


def _moment(seconds: float | None) -> str:
    if not seconds:
        return "-"
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


@command.command("install")
@click.option("--file", "-f", "file", type=click.Path(path_type=Path), default=DEFAULT_FILE)
@click.option("--directory", type=click.Path(path_type=Path), help="Where systemd's units are.")
@click.option("--print", "only_print", is_flag=True, help="Only print the unit.")
@pass_settings
def install(settings: Settings, file: Path, directory: Path | None, only_print: bool) -> None:
    """Write a systemd service that runs a schedule, and start it where systemd runs."""
    from migrate.schedule.plan import load_plan
    from migrate.schedule.units import DIRECTORY, UNIT, service_unit, systemd_runs
    from migrate.schedule.units import install as install_unit

    plan = load_plan(file)
    program = Path(sys.argv[0]).absolute()
    words = [str(program), "--root", str(settings.root), "schedule", "run"]
    text = service_unit([*words, "--file", str(file.absolute())], plan)
    if only_print:
        click.echo(text, nl=False)
        return
    enable = directory is None and systemd_runs()
    path = install_unit(text, directory or DIRECTORY, enable=enable)
    if enable:
        click.echo(f"{path}: running, and started at each boot")
    else:
        click.echo(f"{path}: written; systemctl enable --now {UNIT} starts it")
