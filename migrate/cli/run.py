"""``wherry run``: create and start, in the foreground unless told otherwise."""

from __future__ import annotations

from typing import Any

import click

from migrate.cli.create_request import CreateOptions, create_options
from migrate.cli.options import Settings, pass_settings


@click.command("run")
@click.argument("cid", metavar="ID")
@create_options
@click.option("--detach", "-d", is_flag=True, help="Return as soon as the program has started.")
@click.option("--keep", is_flag=True, help="Do not delete the container at its end.")
@click.option("--no-subreaper", is_flag=True, hidden=True, help="The monitor reaps orphans.")
@pass_settings
def command(
    settings: Settings, /, cid: str, detach: bool, keep: bool, no_subreaper: bool, **options: Any
) -> int:
    """Create a container from a bundle and start it.

    In the foreground, signals go to the program, its exit status becomes ours (128 plus the
    number of a signal that ended it), and the container is deleted at its end.
    """
    from migrate.cli.running import run_detached, run_in_foreground

    request_options = CreateOptions(**options)
    if detach:
        return run_detached(settings.root, cid, request_options)
    return run_in_foreground(settings.root, cid, request_options, keep=keep)
