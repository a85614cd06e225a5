"""``wherry start``: let the program of a created container go."""

from __future__ import annotations

import click

from migrate.cli.options import Settings, pass_settings


@click.command("start")
@click.argument("cid", metavar="ID")
@pass_settings
def command(settings: Settings, cid: str) -> None:
    """Start the program of a created container; a restored one is thawed."""
    settings.load(cid).start()
