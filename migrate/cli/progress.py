"""Progress: a bar on a terminal, plain lines in a log, both on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from migrate.cli.human import human_bytes, human_rate

if TYPE_CHECKING:
    from rich.progress import TaskID

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)`` with bytes; total is 0 when it is not known."""

_LINE_INTERVAL_S = 2.0


@contextlib.contextmanager
def progress_display(title: str, *, quiet: bool = False) -> Iterator[Progress]:
    """Show what a long operation does.

    On a terminal, a bar with the rate for each stage. Otherwise a line every other second, so that
    short operations say nothing in a log.

    Args:
        title: The operation, in front of the stages' names.
        quiet: Show nothing: somebody reads the result as JSON.
    """
    if quiet:
        yield lambda stage, done, total: None
    elif sys.stderr.isatty():
        with _bars(title) as progress:
            yield progress
    else:
        yield _lines(title)


def _label(title: str, stage: str) -> str:
    return title if stage == title else f"{title}: {stage}"


def _lines(title: str) -> Progress:
    current, begun, last = "", 0.0, time.monotonic()

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal current, begun, last
        now = time.monotonic()
        if stage != current:
            current, begun = stage, now
        if now - last < _LINE_INTERVAL_S:
            return
        last = now
        of_total = f" of {human_bytes(total)}" if total else ""
        rate = human_rate(done, int((now - begun) * 1e9))
        click.echo(f"{_label(title, stage)}: {human_bytes(done)}{of_total}, {rate}", err=True)

    return progress


@contextlib.contextmanager
def _bars(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(_label(title, stage), total=total or None)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield progress
