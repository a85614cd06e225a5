"""``wherry pause``: freeze a container."""

from __future__ import annotations

import click

from migrate.cli.options import Settings, pass_settings


@click.command("pause")
@click.argument("cid", metavar="ID")
@pass_settings
def command(settings: Settings, cid: str) -> None:
    """Freeze every process of a running container."""
    settings.load(cid).pause()
