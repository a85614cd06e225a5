"""``wherry resume``: thaw a container."""

from __future__ import annotations

import click

from migrate.cli.options import Settings, pass_settings


@click.command("resume")
@click.argument("cid", metavar="ID")
@pass_settings
def command(settings: Settings, cid: str) -> None:
    """Let the processes of a paused container go on."""
    settings.load(cid).resume()
