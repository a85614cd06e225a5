"""``wherry store``: make stores, check them, and see what they hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrate.cli.options import print_json
from migrate.cli.store_keys import key_group
from migrate.cli.store_options import Place, opened, require_url, store_options

if TYPE_CHECKING:
    from migrate.store.prune import PruneReport

_JSON = click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")


@click.group("store")
def command() -> None:
    """Make, check, and look into stores of snapshots."""


command.add_command(key_group)


@command.command("init")
@store_options
@click.option("--encrypt", is_flag=True, help="Encrypt all that is in it.")
@click.option(
    "--recipient",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --encrypt: unlock it with the private key of this public one (X25519, PEM).",
)
@_JSON
def init(place: Place, encrypt: bool, recipient: Path | None, as_json: bool) -> None:
    """Make a store.

    With --encrypt nothing in it can be read or changed unnoticed without its key; a password, a key
    file or a private key unlocks that. Without any of them, the store is lost.
    """
    from migrate.store.store import init_store

    url = require_url(place.url)
    secret = None
    if recipient is not None and not encrypt:
        raise click.UsageError("--recipient needs --encrypt")
    if recipient is not None:
        from migrate.store.secrets import recipient as from_file

        secret = from_file(recipient)
    elif encrypt:
        secret = place.secret(new=True)
    with init_store(url, secret) as store:
        report = {
            "store": store.url,
            "id": store.config.store_id.hex(),
            "encrypted": store.config.encrypted,
        }
    if as_json:
        print_json(report)
    else:
        click.echo(f"{report['store']}: {'an encrypted' if encrypt else 'a'} store is ready")


@command.command("check")
@store_options
@click.option("--read-data", is_flag=True, help="Also read all packs, and check every chunk.")
@_JSON
def check(place: Place, read_data: bool, as_json: bool) -> int:
    """Look for damage: missing, truncated and changed objects, and the snapshots they touch.

    Exits with 0 when the store is whole, else with 1.
    """
    from migrate.cli.progress import progress_display
    from migrate.store.check import check_store
    from migrate.store.config import Operation

    with (
        opened(place, Operation.READ) as store,
        progress_display("check", quiet=as_json) as progress,
    ):
        report = check_store(store, read_data=read_data, progress=progress)
    if as_json:
        print_json(
            {
                "ok": not report.damages,
                "damages": [
                    {
                        "name": one.name,
                        "reason": one.reason,
                        "sentence": one.sentence,
                        "snapshots": [snapshot.hex() for snapshot in one.snapshots],
                    }
                    for one in report.damages
                ],
                "notes": report.notes,
                "snapshots": report.snapshots,
                "packs": report.packs,
                "chunks": report.chunks,
                "read_bytes": report.read_bytes,
            }
        )
        return 1 if report.damages else 0
    for one in report.damages:
        touched = ", ".join(snapshot.hex()[:8] for snapshot in one.snapshots) or "no snapshot"
        said = one.sentence if one.name in one.sentence else f"{one.name} {one.sentence}"
        click.echo(f"{said} [{one.reason}]; touches {touched}")
    for note in report.notes:
        click.echo(f"note: {note}")
    click.echo(
        f"{report.snapshots} snapshots, {report.packs} packs, {report.chunks} chunks: "
        + (f"{len(report.damages)} damages" if report.damages else "whole")
        + ("" if read_data else "; contents were not read (--read-data)")
    )
    return 1 if report.damages else 0


@command.command("stats")
@store_options
@_JSON
def stats(place: Place, as_json: bool) -> None:
    """Show how much a store holds, and how much its snapshots share."""
    from migrate.cli.human import human_bytes
    from migrate.store.config import Operation
    from migrate.store.stats import read_stats

    with opened(place, Operation.READ) as store:
        found = read_stats(store)
    if as_json:
        ratios = {"dedup_ratio": round(found.dedup_ratio, 3), "ratio": round(found.ratio, 3)}
        print_json(dataclasses.asdict(found) | ratios)
        return
    click.echo(
        f"snapshots   {found.snapshots}\n"
        f"contents    {human_bytes(found.plain_bytes)} in all snapshots\n"
        f"unique      {human_bytes(found.unique_bytes)} in {found.chunks} chunks, shared "
        f"{found.dedup_ratio:.2f} times\n"
        f"stored      {human_bytes(found.stored_bytes)}, {found.ratio:.2f} times smaller than all\n"
        f"unused      {human_bytes(found.unused_bytes)}, for wherry store prune\n"
        f"on storage  {human_bytes(found.total_bytes)} in {found.packs} packs and other objects"
    )


@command.command("prune")
@store_options
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--max-unused",
    type=click.FloatRange(0, 100),
    default=5,
    show_default=True,
    metavar="PERCENT",
    help="How much may stay that no snapshot needs.",
)
@_JSON
def prune(place: Place, dry_run: bool, max_unused: float, as_json: bool) -> None:
    """Remove chunks that no snapshot needs; others may write meanwhile.

    What a writer at work may rely on stays until it has ended; the next prune removes it.
    """
    from migrate.cli.progress import progress_display
    from migrate.store.config import Operation
    from migrate.store.prune import prune as run

    with (
        opened(place, Operation.PRUNE) as store,
        progress_display("prune", quiet=as_json) as progress,
    ):
        report = run(store, dry_run=dry_run, max_unused=max_unused / 100, progress=progress)
    if as_json:
        print_json(dataclasses.asdict(report) | {"dry_run": dry_run})
    else:
        print_prune(report, dry_run=dry_run)


def print_prune(report: PruneReport, *, dry_run: bool) -> None:
    """Say what a prune did."""
    from migrate.cli.human import human_bytes

    if dry_run:
        click.echo(
            f"{report.condemned_packs} packs of {human_bytes(report.removed_bytes)} would go; what "
            "is needed of them would be copied first"
        )
        return
    click.echo(
        f"{report.removed_packs} packs of {human_bytes(report.removed_bytes)} are gone, "
        f"{human_bytes(report.copied_bytes)} of them were copied; "
        f"{human_bytes(report.unused_bytes)} stay unused"
    )
    if report.waiting_packs:
        click.echo(
            f"{report.waiting_packs} packs wait for {', '.join(report.waiting_for)}; prune again "
            "when that has ended"
        )
