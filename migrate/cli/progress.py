"""Progress: a bar on a terminal, plain lines in a log, both on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import TaskID

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)`` with bytes; total is 0 when it is not known."""

_LINE_INTERVAL_S = 5.0


@contextlib.contextmanager
def progress_display(title: str) -> Iterator[Progress]:
    """Show what a long operation does.

    On a terminal, one bar with the rate. Otherwise a line when a stage takes long, so that short
    operations say nothing in a log.
    """
    if sys.stderr.isatty():
        with _bars(title) as progress:
            yield progress
    else:
        yield _lines(title)


def _lines(title: str) -> Progress:
    last = time.monotonic()

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _LINE_INTERVAL_S:
            return
        last = now
        amount = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{done / 1e6:.0f} MB"
        click.echo(f"{title}: {stage}: {amount}", err=True)

    return progress


@contextlib.contextmanager
def _bars(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress as RichProgress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(f"{title}: {stage}", total=total or None)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield progress
