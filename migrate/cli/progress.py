"""Showing how far a long command has come: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from runtime.engine.api import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_INTERVAL_S = 2.0  # between two plain lines
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def human_bytes(count: float) -> str:
    """A count of bytes as people read it: ``1.5 GiB``."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 or count >= 100 else _short(count, unit)


def _short(count: float, unit: int) -> str:
    return f"{count:.1f} {_UNITS[unit]}"


def human_rate(count: float, elapsed_ns: int) -> str:
    """Bytes in a time as a rate: ``230 MiB/s``."""
    return f"{human_bytes(count * 1e9 / max(elapsed_ns, 1))}/s"


def human_time(elapsed_ns: int) -> str:
    """A time as people read it: ``38 ms``, ``2.1 s``."""
    milliseconds = elapsed_ns / 1e6
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


@contextlib.contextmanager
def show_progress(*, quiet: bool = False) -> Iterator[Progress]:
    """A `Progress` that shows itself on standard error while the context lasts.

    Args:
        quiet: Show nothing; for ``--json`` and scripts.
    """
    if quiet:
        yield lambda stage, done, total: None
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _Lines().report


class _Lines:
    """One line every few seconds: for logs."""

    def __init__(self) -> None:
        self._stage = ""
        self._begun = self._last = 0.0

    def report(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begun, self._last = stage, now, now
            return
        if now - self._last < LINE_INTERVAL_S:
            return
        self._last = now
        of_total = f" of {human_bytes(total)}" if total else ""
        rate = human_rate(done, int((now - self._begun) * 1e9))
        click.echo(f"{stage}: {human_bytes(done)}{of_total}, {rate}", err=True)


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Display

    tasks: dict[str, TaskID] = {}
    with Display(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as display:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = display.add_task(stage, total=total or None)
            display.update(tasks[stage], completed=done, total=total or None)

        yield report
