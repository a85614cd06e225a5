"""``wherry kill``: send a signal."""

from __future__ import annotations

import click

from migrate.cli.options import Settings, pass_settings
from migrate.cli.signals import parse_signal


@click.command("kill")
@click.option("--all", "-a", "every", is_flag=True, help="To all processes of the container.")
@click.option("--pid", "ns_pid", type=int, help="To the process with this pid as seen inside.")
@click.option("--group", is_flag=True, help="To the process's whole process group.")
@click.argument("cid", metavar="ID")
@click.argument("signal", default="SIGTERM")
@pass_settings
def command(
    settings: Settings, cid: str, signal: str, every: bool, ns_pid: int | None, group: bool
) -> None:
    """Send a signal (SIGTERM by default; a name or a number) to a container's init."""
    if every and (group or ns_pid is not None):
        raise click.UsageError("--all excludes --pid and --group")
    signum = parse_signal(signal)
    settings.load(cid).signal(signum, every=every, ns_pid=ns_pid, group=group)
