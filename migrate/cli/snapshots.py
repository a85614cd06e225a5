"""``wherry snapshots``: the list of a store."""

from __future__ import annotations

import logging

import click

from migrate.cli.options import print_json
from migrate.cli.store_options import Place, opened, store_options

log = logging.getLogger(__name__)


@click.command("snapshots")
@store_options
@click.option("--container", "cid", metavar="ID", help="Only those of this container.")
@click.option("--tag", "tag", metavar="TAG", help="Only those with this tag.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def command(place: Place, cid: str | None, tag: str | None, as_json: bool) -> None:
    """List the snapshots of a store, the oldest first; times are UTC."""
    show_snapshots(place, cid=cid, tag=tag, as_json=as_json)


def show_snapshots(place: Place, *, cid: str | None, tag: str | None, as_json: bool) -> None:
    """Print the table, or a JSON array."""
    from formats.errors import WherryError
    from migrate.cli.human import human_bytes
    from migrate.cli.table import print_table
    from migrate.store.carrier import snapshot_json
    from migrate.store.config import Operation

    failures: list[WherryError] = []
    with opened(place, Operation.READ) as store:
        found = [
            one
            for one in store.snapshots(failures=failures)
            if (cid is None or one.container_id == cid) and (tag is None or tag in one.tags)
        ]
    for failure in failures:
        log.warning("%s", failure)
    if as_json:
        print_json([snapshot_json(one) for one in found])
        return
    print_table(
        ("ID", "CONTAINER", "TIME (UTC)", "TAGS", "SIZE", "NEW"),
        [
            (
                one.short_id,
                one.container_id,
                f"{one.created:%Y-%m-%d %H:%M:%S}",
                ",".join(one.tags) or "-",
                human_bytes(one.plain_bytes).replace(" ", ""),
                human_bytes(one.new_bytes).replace(" ", ""),
            )
            for one in found
        ],
    )
