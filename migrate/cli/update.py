"""``wherry update``: change limits."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from migrate.cli.options import Settings, pass_settings

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _bytes(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    if text is None or text == "-1":
        return None if text is None else -1
    match = re.fullmatch(r"(\d+)([bkmgt]?)(?:i?b)?", text.lower())
    if match is None:
        raise click.BadParameter(f"{text!r} is no size, write for instance 512m")
    return int(match[1]) * _UNITS[match[2]]


@click.command("update")
@click.option(
    "--resources",
    "-r",
    type=click.Path(path_type=Path, allow_dash=True),
    help="JSON file with an OCI linux.resources; - is standard input.",
)
@click.option("--memory", callback=_bytes, help="Memory limit in bytes, or with k, m, g.")
@click.option("--memory-reservation", callback=_bytes, help="Soft memory limit.")
@click.option("--memory-swap", callback=_bytes, help="Memory and swap together.")
@click.option("--cpu-shares", "--cpu-share", type=int)
@click.option("--cpu-quota", type=int, help="Microseconds in each period.")
@click.option("--cpu-period", type=int, help="Microseconds.")
@click.option("--cpuset-cpus")
@click.option("--cpuset-mems")
@click.option("--blkio-weight", type=int)
@click.option("--pids-limit", type=int)
@click.argument("cid", metavar="ID")
@pass_settings
def command(settings: Settings, /, cid: str, resources: Path | None, **options: Any) -> None:
    """Change the resource limits of a container; what is not mentioned stays."""
    changes: dict[str, Any] = {}
    if resources is not None:
        changes = _read(resources)
    for name, (group, key) in _KEYS.items():
        if options[name] is not None:
            changes.setdefault(group, {})[key] = options[name]
    if not changes:
        raise click.UsageError("say what to change")
    settings.load(cid).update(changes)


_KEYS = {
    "memory": ("memory", "limit"),
    "memory_reservation": ("memory", "reservation"),
    "memory_swap": ("memory", "swap"),
    "cpu_shares": ("cpu", "shares"),
    "cpu_quota": ("cpu", "quota"),
    "cpu_period": ("cpu", "period"),
    "cpuset_cpus": ("cpu", "cpus"),
    "cpuset_mems": ("cpu", "mems"),
    "blkio_weight": ("blockIO", "weight"),
    "pids_limit": ("pids", "limit"),
}


def _read(path: Path) -> dict[str, Any]:
    text = sys.stdin.read() if str(path) == "-" else path.read_text()
    try:
        document = json.loads(text)
    except ValueError as exc:
        raise click.UsageError(f"{path} is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise click.UsageError(f"{path} holds no JSON object")
    return document
