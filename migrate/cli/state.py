"""``wherry state``: the OCI state."""

from __future__ import annotations

import click

from migrate.cli.options import Settings, pass_settings, print_json


@click.command("state")
@click.argument("cid", metavar="ID")
@pass_settings
def command(settings: Settings, cid: str) -> None:
    """Print the state of a container as JSON, the way OCI defines it."""
    print_json(settings.load(cid).state())
