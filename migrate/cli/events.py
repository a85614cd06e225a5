"""``wherry events``: the cgroup's counters, again and again."""

from __future__ import annotations

import json
import re

import click

from migrate.cli.options import Settings, pass_settings
from runtime.status import Status

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _parse_interval(_ctx: click.Context, _param: click.Parameter, text: str) -> float:
    """Seconds from Go's notation (``5s``, ``1m30s``, ``250ms``) or a bare number of seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h))+", text):
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        raise click.BadParameter(f"{text!r} is no duration, write for instance 5s")
    if seconds <= 0:
        raise click.BadParameter("must be greater than zero")
    return seconds


@click.command("events")
@click.option(
    "--interval", default="5s", show_default=True, callback=_parse_interval, help="Between lines."
)
@click.option("--stats", is_flag=True, help="Print one line and end.")
@click.argument("cid", metavar="ID")
@pass_settings
def command(settings: Settings, cid: str, interval: float, stats: bool) -> None:
    """Print the statistics of a container as JSON lines until it ends."""
    container = settings.load(cid)
    while True:
        click.echo(json.dumps(container.event()))
        if stats:
            return
        init = container.metadata.init
        if init is None or init.wait_gone(interval):
            return
        if container.status is Status.STOPPED:
            return
