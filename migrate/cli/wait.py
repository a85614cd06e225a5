"""``wherry wait``: the exit status, also long afterwards."""

from __future__ import annotations

import click

from migrate.cli.exit_status import shell_status
from migrate.cli.options import Settings, pass_settings


@click.command("wait")
@click.option("--pid", type=int, help="Wait for the process with this pid as seen inside.")
@click.argument("cid", metavar="ID")
@pass_settings
def command(settings: Settings, cid: str, pid: int | None) -> int:
    """Wait for the end of a container and return its exit status.

    The status is that of the program, or 128 plus the number of the signal that ended it.
    """
    container = settings.load(cid)
    return shell_status(container.wait() if pid is None else container.wait_pid(pid))
