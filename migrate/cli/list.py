"""``wherry list``: what the state root holds."""

from __future__ import annotations

from typing import Any

import click

from migrate.cli.options import Settings, pass_settings, print_json
from migrate.cli.table import print_table


@click.command("list")
@click.option("--format", "-f", "format_", type=click.Choice(["table", "json"]), default="table")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--quiet", "-q", is_flag=True, help="Print ids only.")
@pass_settings
def command(settings: Settings, format_: str, as_json: bool, quiet: bool) -> None:
    """List the containers, also those that are half created or damaged."""
    rows = [row for row in _rows(settings) if row is not None]
    if quiet:
        for row in rows:
            click.echo(row["id"])
    elif as_json or format_ == "json":
        print_json(rows)
    else:
        print_table(
            ("ID", "PID", "STATUS", "BUNDLE", "CREATED"),
            [[row[key] for key in ("id", "pid", "status", "bundle", "created")] for row in rows],
        )


def _rows(settings: Settings) -> list[dict[str, Any] | None]:
    from formats.errors import WherryError
    from runtime.container import Container
    from runtime.errors import ContainerNotFoundError

    rows: list[dict[str, Any] | None] = []
    for entry in Container.list(settings.root):
        if entry.container is None:
            rows.append(_damaged(entry.id, entry.error))
            continue
        try:
            rows.append(entry.container.state())
        except ContainerNotFoundError:
            continue  # deleted while we looked
        except WherryError as exc:
            rows.append(_damaged(entry.id, str(exc)))
    return rows


def _damaged(cid: str, why: str) -> dict[str, Any]:
    return {
        "ociVersion": "",
        "id": cid,
        "status": "damaged",
        "pid": 0,
        "bundle": "",
        "rootfs": "",
        "created": "",
        "annotations": {},
        "owner": "",
        "error": why,
    }
