"""``wherry ship``: copy a state file to another host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from migrate.cli.human import human_bytes, human_rate
from migrate.cli.options import print_json
from migrate.cli.progress import progress_display
from migrate.cli.ssh_options import ask_person, ssh_options
from migrate.destination import Destination
from migrate.errors import MigrateError
from migrate.rate_limit import parse_rate
from migrate.remote import RETRY_FOR_S, Route
from migrate.ship import ship


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("destination", metavar="[USER@]HOST:[PATH]")
@click.option("--force", is_flag=True, help="Replace a file of that name over there.")
@click.option("--bwlimit", metavar="RATE", help="At most so many bytes per second: 500k, 20M.")
@click.option(
    "--retry-for",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=RETRY_FOR_S,
    show_default=True,
    help="How long to try again when the connection breaks.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as a JSON object.")
@ssh_options
def command(
    file: Path,
    destination: str,
    force: bool,
    bwlimit: str | None,
    retry_for: float,
    as_json: bool,
    route_to: Callable[[Destination], Route],
) -> None:
    """Copy the state file FILE to another host that has wherry.

    The file is verified there while it arrives and gets its name only when it is complete. PATH is
    as for scp: relative to the home directory there, and a directory keeps the file's name.

    When the connection breaks, what has come is kept there under a hidden name, and this command,
    or the next one for the same file, goes on with it.
    """
    target = Destination.parse(destination)
    if target.path is None:
        raise MigrateError(
            f"destination {destination!r} names no path; for the home directory there write"
            f" {target}:",
            reason="bad-destination",
        )
    limit = None if bwlimit is None else parse_rate(bwlimit)
    with progress_display("ship", quiet=as_json) as progress:
        report = ship(
            file,
            route_to(target),
            overwrite=force,
            bytes_per_s=limit,
            progress=progress,
            ask=ask_person,
            retry_for_s=retry_for,
        )
    if as_json:
        print_json(
            {
                "host": target.host,
                "path": report.path,
                "size_bytes": report.size_bytes,
                "elapsed_ns": report.elapsed_ns,
                "bytes_per_s": round(report.bytes_per_s),
                "root": report.root,
                "sent_bytes": report.sent_bytes,
                "connections": report.connections,
            }
        )
        return
    click.echo(
        f"{target}:{report.path}  {human_bytes(report.size_bytes)}"
        f"  {human_rate(report.size_bytes, report.elapsed_ns)}  verified"
    )
