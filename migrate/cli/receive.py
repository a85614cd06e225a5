"""``wherry receive``: the other side of ship and migrate."""

from __future__ import annotations

import click

from migrate.cli.options import Settings, pass_settings
from migrate.receive import own_channel, serve


@click.command()
@pass_settings
def command(settings: Settings) -> None:
    """Take part in one conversation over standard input and output.

    Called over SSH by ``wherry ship`` and ``wherry migrate`` on another host; of no use by hand.
    """
    channel = own_channel()
    try:
        serve(channel, settings.root)
    finally:
        channel.close()
