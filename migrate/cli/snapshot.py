"""``wherry snapshot``: save a container into a store."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrate.cli.engine_options import checkpoint_options
from migrate.cli.late_progress import late_progress
from migrate.cli.options import Settings, pass_settings, print_json
from migrate.cli.store_options import Place, opened, store_options

if TYPE_CHECKING:
    from migrate.store.snapshots import Snapshot
    from runtime.engine.api import CheckpointOptions

log = logging.getLogger(__name__)


@click.command("snapshot")
@store_options
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag it; may be repeated.")
@click.option("--leave-running", is_flag=True, help="Let the container go on afterwards.")
@click.option(
    "--track/--no-track",
    default=True,
    help="With --leave-running: read memory while it runs, and have the kernel note what changes "
    "until the next snapshot.  [default: track]",
)
@click.option("--bwlimit", metavar="RATE", help="Bytes per second to the store: 500k, 20M, 1G.")
@click.option(
    "--sign-key",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="WHERRY_SIGN_KEY",
    show_envvar=True,
    help="Sign it with this private key (Ed25519, PEM).",
)
@checkpoint_options
@click.option("--json", "as_json", is_flag=True, help="Print a report as JSON.")
@click.argument("cid", metavar="CONTAINER")
@pass_settings
def command(
    settings: Settings,
    place: Place,
    tags: tuple[str, ...],
    cid: str,
    leave_running: bool,
    track: bool,
    bwlimit: str | None,
    sign_key: Path | None,
    allow: CheckpointOptions,
    as_json: bool,
) -> None:
    """Save a running or paused container as a snapshot of a store.

    The store keeps what its snapshots have in common once. Without --leave-running the container
    has stopped afterwards. If anything fails, it runs on untouched and no snapshot appears.
    """
    from migrate.cli.human import human_bytes, human_time
    from migrate.rate_limit import parse_rate
    from migrate.store.carrier import snapshot_container
    from migrate.store.config import Operation
    from migrate.store.snapshots import check_tag

    checked = tuple(check_tag(tag) for tag in tags)
    limit = None if bwlimit is None else parse_rate(bwlimit)
    container = settings.load(cid)
    sign: Callable[[Snapshot], Snapshot] = _unsigned
    if sign_key is not None:
        from migrate.store.signing import signer

        sign = signer(sign_key)
    store = opened(place, Operation.WRITE)
    store.put_limit = limit
    with late_progress("snapshot", quiet=as_json) as progress:
        report = snapshot_container(
            container,
            store,
            tags=checked,
            leave_running=leave_running,
            progress=progress,
            options=allow,
            sign=sign,
            track=track,
        )
    for warning in report["warnings"]:
        log.warning("%s: %s", cid, warning)
    if as_json:
        print_json(report)
        return
    made = report["snapshot"]
    frozen = f", frozen for {human_time(report['frozen_ns'])}" if leave_running else ""
    click.echo(
        f"snapshot {made['id'][:8]} of {made['container_id']}: {human_bytes(made['plain_bytes'])}, "
        f"{human_bytes(made['new_bytes'])} new{frozen}"
    )


def _unsigned(snapshot: Snapshot) -> Snapshot:
    return snapshot
