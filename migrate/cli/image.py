"""``wherry image``: look into state files and verify them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from formats.statefile import ImageSummary, Source

_FILE = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
_TELL_EVERY = 4 << 20  # bytes; a progress bar costs more than reading a frame's head


@click.group("image")
def command() -> None:
    """Look into state files and verify them."""


@command.command("inspect")
@_FILE
@_JSON
def inspect(file: Path, as_json: bool) -> None:
    """Show what a state file holds: when, where, tasks, memory, files and sizes.

    Only the records and the index are read, so this is quick; `wherry image verify` checks
    every byte.
    """
    from migrate.cli.image_report import read_report, report_as_json

    report = read_report(file)
    if as_json:
        click.echo(json.dumps(report_as_json(report), indent=2))
        return
    from migrate.cli.image_view import print_report

    print_report(report)


@command.command("verify")
@_FILE
@_JSON
def verify(file: Path, as_json: bool) -> None:
    """Read a whole state file back and check every byte of it.

    With --json, a damaged file gives an object too, with "ok" false, the reason code and the
    sentence; the exit status is the same as without.
    """
    from formats.errors import ImageError
    from migrate.cli.human import human_bytes, human_rate

    began = time.monotonic_ns()
    try:
        summary = _verify(file, quiet=as_json)
    except ImageError as exc:
        if as_json:
            click.echo(json.dumps(_failure_json(file, exc), indent=2))
        raise
    elapsed_ns = time.monotonic_ns() - began
    if as_json:
        click.echo(json.dumps(_summary_json(file, summary, elapsed_ns), indent=2))
        return
    click.echo(
        f"{file}: intact: {summary.records} records and {summary.chunks} chunks, "
        f"{human_bytes(summary.plain_bytes)} of contents in a file of "
        f"{human_bytes(summary.file_size)}; read with "
        f"{human_rate(summary.file_size, elapsed_ns)}; root digest {summary.root.hex()}"
    )


def _verify(file: Path, *, quiet: bool) -> ImageSummary:
    from formats.statefile import open_image, verify_image
    from migrate.cli.progress import progress_display

    with open_image(file) as source, progress_display("verify", quiet=quiet) as progress:
        total = file.stat().st_size
        counted = _Counting(source, lambda done: progress("contents", done, total))
        return verify_image(counted, name=file.name)


class _Counting:
    """A source that tells how far it has been read."""

    def __init__(self, source: Source, on_bytes: Callable[[int], None]) -> None:
        self._source = source
        self._on_bytes = on_bytes
        self._done = self._told = 0

    def readinto(self, buffer: memoryview, /) -> int | None:
        """As the source's own."""
        got = self._source.readinto(buffer)
        self._done += got or 0
        if self._done - self._told >= _TELL_EVERY:
            self._told = self._done
            self._on_bytes(self._done)
        return got


def _summary_json(file: Path, summary: ImageSummary, elapsed_ns: int) -> dict[str, Any]:
    sizes = dataclasses.asdict(summary) | {"root": summary.root.hex()}
    return {"path": str(file), "ok": True, **sizes, "elapsed_ns": elapsed_ns}


def _failure_json(file: Path, exc: Exception) -> dict[str, Any]:
    reason = getattr(exc, "reason", "error")
    return {"path": str(file), "ok": False, "reason": reason, "error": str(exc)}
