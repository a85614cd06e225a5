"""``wherry delete``: nothing of the container stays."""

from __future__ import annotations

import click

from migrate.cli.options import Settings, pass_settings


@click.command("delete")
@click.option("--force", "-f", is_flag=True, help="Kill it first if it has not stopped.")
@click.argument("cid", metavar="ID")
@pass_settings
def command(settings: Settings, cid: str, force: bool) -> None:
    """Delete a container that has stopped, or with --force any.

    With --force the id has to be written in full, and a container that does not exist is no error.
    """
    from runtime.state_root import delete_entry

    delete_entry(settings.root, cid, force=force)
