"""``wherry check``: what this host offers, feature by feature."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby

import click

from runtime.kernel.features import Feature, Need, all_features

_NAME_WIDTH = 24


def _verdict(feature: Feature) -> str:
    if feature.available:
        return "yes"
    return "MISSING" if feature.blocks else "no"


def _lines_of(feature: Feature, width: int) -> Iterator[str]:
    """One feature as a person reads it; the absent ones say why and what happens without."""
    head = f"  {feature.name:<{_NAME_WIDTH}} {_verdict(feature):<8}"
    indent = " " * len(head)
    if feature.available:
        text = f"{feature.used_for} ({feature.detail})" if feature.detail else feature.used_for
    else:
        text = f"{feature.why_not}. For: {feature.used_for}. Without it: {feature.without_it}."
    if feature.need is Need.UNUSED:
        text = f"[not used yet] {text}"
    wrapped = textwrap.wrap(text, max(width - len(head), 40)) or [""]
    yield head + wrapped[0]
    for line in wrapped[1:]:
        yield indent + line


def _print_table(features: Iterable[Feature]) -> None:
    width = shutil.get_terminal_size((110, 24)).columns
    for group, members in groupby(features, key=lambda feature: feature.group):
        click.echo(group)
        for feature in members:
            for line in _lines_of(feature, width):
                click.echo(line)
    click.echo()


def _as_json(features: Iterable[Feature], ok: bool) -> str:
    host = os.uname()
    entries = [
        {
            "name": feature.name,
            "group": feature.group,
            "need": str(feature.need),
            "available": feature.available,
            "detail": feature.detail,
            "why_not": feature.why_not,
            "used_for": feature.used_for,
            "without_it": feature.without_it,
        }
        for feature in features
    ]
    report = {"ok": ok, "kernel": host.release, "machine": host.machine, "features": entries}
    return json.dumps(report, indent=2)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of a table.")
def command(as_json: bool) -> None:
    """Report what this host offers, feature by feature.

    Exits with 0 when everything is there that wherry cannot do without, else with 1.
    """
    features = all_features()
    missing = [feature.name for feature in features if feature.blocks]
    if as_json:
        click.echo(_as_json(features, not missing))
    else:
        _print_table(features)
        absent = sum(1 for feature in features if not feature.available)
        if missing:
            click.echo(f"wherry cannot work here: it lacks {', '.join(missing)}")
        else:
            click.echo(f"wherry works here; {absent} of {len(features)} features are absent")
    sys.exit(1 if missing else 0)
