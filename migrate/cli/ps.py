"""``wherry ps``: the processes of a container."""

from __future__ import annotations

import dataclasses
import time

import click

from migrate.cli.options import Settings, pass_settings, print_json
from migrate.cli.table import print_table
from runtime.errors import ContainerError


@click.command("ps", context_settings={"ignore_unknown_options": True})
@click.option("--format", "-f", "format_", type=click.Choice(["table", "json"]), default="table")
@click.option("--json", "as_json", is_flag=True, help="Every process as an object.")
@click.argument("cid", metavar="ID")
@click.argument("ps_options", nargs=-1, type=click.UNPROCESSED)
@pass_settings
def command(
    settings: Settings, cid: str, format_: str, as_json: bool, ps_options: tuple[str, ...]
) -> None:
    """List the processes of a container, exec sessions among them.

    --format json prints the pids (of the host) only, as runc does. PS_OPTIONS go to the host's ps,
    whose table is then cut down to the container's processes.
    """
    container = settings.load(cid)
    lines = container.processes()
    if as_json:
        print_json([dataclasses.asdict(line) for line in lines])
    elif format_ == "json":
        import json

        click.echo(json.dumps([line.pid for line in lines]))
    elif ps_options:
        _host_ps({line.pid for line in lines}, ps_options)
    else:
        print_table(
            ("UID", "PID", "INSIDE", "PPID", "STIME", "TTY", "TIME", "CMD"),
            [
                (
                    line.uid,
                    line.pid,
                    line.ns_pid,
                    line.parent_pid,
                    _start(line.started),
                    line.tty,
                    _duration(line.cpu_s),
                    line.command,
                )
                for line in lines
            ],
        )


def _start(seconds: float) -> str:
    started = time.localtime(seconds)
    today = time.localtime()
    same_day = (started.tm_year, started.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M" if same_day else "%b%d", started)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest:02}"


def _host_ps(pids: set[int], options: tuple[str, ...]) -> None:
    import subprocess

    try:
        done = subprocess.run(["ps", *options], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ContainerError("this host has no ps; leave out the options", reason="no-ps") from None
    if done.returncode != 0:
        raise ContainerError(f"ps: {done.stderr.strip()}", reason="ps-failed")
    head, *lines = done.stdout.splitlines()
    columns = head.split()
    if "PID" not in columns:
        raise ContainerError("ps prints no PID column with these options", reason="ps-failed")
    column = columns.index("PID")
    click.echo(head)
    for line in lines:
        if int(line.split()[column]) in pids:
            click.echo(line)
