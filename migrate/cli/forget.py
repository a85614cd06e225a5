"""``wherry forget``: drop snapshots by policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from migrate.cli.options import print_json
from migrate.cli.store_options import Place, opened, store_options

if TYPE_CHECKING:
    from migrate.retention import Policy, Verdict
    from migrate.store.snapshots import Snapshot

_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def _count_option(name: str) -> Any:
    what = "the newest N" if name == "last" else f"the newest of each of the last N, {name}"
    return click.option(
        f"--keep-{name}",
        name,
        type=click.IntRange(min=-1),
        default=0,
        metavar="N",
        help=f"Keep {what}; -1 keeps all.",
    )


def policy_options(function: Any) -> Any:
    """Give a command the options of a retention policy."""
    function = click.option(
        "--keep-tag",
        "keep_tags",
        multiple=True,
        metavar="TAG[,TAG]...",
        help="Keep all that have these tags; may be repeated.",
    )(function)
    function = click.option(
        "--keep-within",
        "within",
        metavar="DURATION",
        help="Keep all younger than this, counted from the newest: 1y2m3d4h.",
    )(function)
    for name in reversed(_COUNTS):
        function = _count_option(name)(function)
    return function


def policy_from(within: str | None, keep_tags: tuple[str, ...], counts: dict[str, int]) -> Policy:
    """The policy that the options describe; a usage error when they describe none."""
    from migrate.retention import Policy, parse_duration

    try:
        duration = parse_duration(within) if within is not None else None
    except ValueError as exc:
        raise click.UsageError(f"--keep-within: {exc}") from None
    tags = tuple(frozenset(filter(None, one.split(","))) for one in keep_tags)
    if not all(tags):
        raise click.UsageError("--keep-tag: an empty tag")
    policy = Policy(**counts, within=duration, tags=tags)
    if policy.empty:
        raise click.UsageError("give a --keep option: without one, nothing would be kept")
    return policy


@click.command("forget")
@store_options
@policy_options
@click.option("--container", "cid", metavar="ID", help="Only snapshots of this container.")
@click.option("--tag", "tag", metavar="TAG", help="Only snapshots with this tag.")
@click.option("--dry-run", "-n", is_flag=True, help="Only show what would stay and go.")
@click.option("--prune", "then_prune", is_flag=True, help="Prune the store afterwards.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(
    place: Place,
    cid: str | None,
    tag: str | None,
    dry_run: bool,
    then_prune: bool,
    within: str | None,
    keep_tags: tuple[str, ...],
    as_json: bool,
    **counts: int,
) -> None:
    """Drop snapshots that no rule keeps; each container is judged for itself, times are UTC.

    The space of their chunks comes back with `wherry store prune`.
    """
    from migrate.retention import judge
    from migrate.store.config import Operation
    from migrate.store.prune import prune

    policy = policy_from(within, keep_tags, counts)
    with opened(place, Operation.DELETE) as store:
        by_container: dict[str, list[Snapshot]] = {}
        for one in store.snapshots():
            if (cid is None or one.container_id == cid) and (tag is None or tag in one.tags):
                by_container.setdefault(one.container_id, []).append(one)
        verdicts = [
            verdict for _, group in sorted(by_container.items()) for verdict in judge(group, policy)
        ]
        pruned = None
        if not dry_run:
            store.forget(verdict.item for verdict in verdicts if not verdict.keeps)
        if then_prune:
            pruned = prune(store, dry_run=dry_run)
    if as_json:
        import dataclasses

        shown = None if pruned is None else dataclasses.asdict(pruned)
        print_json({"dry_run": dry_run, "snapshots": _as_json(verdicts), "prune": shown})
        return
    _print(verdicts, dry_run=dry_run)
    if pruned is not None:
        from migrate.cli.store import print_prune

        print_prune(pruned, dry_run=dry_run)


def _as_json(verdicts: list[Verdict[Snapshot]]) -> list[dict[str, Any]]:
    from migrate.store.carrier import snapshot_json

    return [
        {"keep": one.keeps, "reasons": list(one.reasons), "snapshot": snapshot_json(one.item)}
        for one in verdicts
    ]


def _print(verdicts: list[Verdict[Snapshot]], *, dry_run: bool) -> None:
    from migrate.cli.table import print_table

    print_table(
        ("ID", "CONTAINER", "TIME (UTC)", "TAGS", "WHAT", "WHY"),
        [
            (
                one.item.short_id,
                one.item.container_id,
                f"{one.item.created:%Y-%m-%d %H:%M:%S}",
                ",".join(one.item.tags) or "-",
                "keep" if one.keeps else "forget",
                ", ".join(one.reasons) or "no rule keeps it",
            )
            for one in verdicts
        ],
    )
    kept = sum(one.keeps for one in verdicts)
    gone = len(verdicts) - kept
    click.echo(f"{kept} stay, {gone} {'would go' if dry_run else 'are gone'}")
