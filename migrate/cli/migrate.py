"""``wherry migrate``: move a running container to another host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrate.cli.engine_options import checkpoint_options
from migrate.cli.human import human_bytes, human_time
from migrate.cli.options import Settings, pass_settings, print_json
from migrate.cli.progress import progress_display
from migrate.cli.ssh_options import ask_person, ssh_options
from migrate.destination import Destination
from migrate.errors import MigrateError
from migrate.handover import Intent, intent_of, settle
from migrate.messages import Answer, PageState, Phase, Wish
from migrate.precopy import DEFAULT_ROUNDS, Mode, OnNoConvergence, RoundLimits, parse_downtime
from migrate.preflight import ACCEPTABLE
from migrate.rate_limit import parse_rate
from migrate.remote import RETRY_FOR_S, Route
from migrate.rootfs.modes import RootfsMode
from runtime.errors import RefusedError

if TYPE_CHECKING:
    from migrate.report import MigrateReport
    from runtime.container import Container
    from runtime.engine.api import CheckpointOptions

_MEANING = {
    Phase.UNKNOWN: "has nothing of it",
    Phase.RECEIVING: "is still receiving it",
    Phase.PREPARED: "holds it frozen, not yet its own",
    Phase.COMMITTED: "owns it and has still to start it",
    Phase.RUNNING: "runs it",
    Phase.ABORTED: "gave it back",
}
_PAGES = {
    PageState.COMPLETE: "runs it with all of its memory (--resume removes it here)",
    PageState.WANTED: "runs it and needs the rest of its memory (--resume serves it)",
    PageState.LOST: "had started it, and it is dead there (--abort --lose-progress lets it go on"
    " here as it was)",
}
_ENDED = {
    "fits": "what was left fits the downtime",
    "not-shrinking": "they did not shrink any more",
    "limit": "as many as were allowed",
}


@click.command()
@click.argument("cid", metavar="ID")
@click.argument("destination", metavar="[USER@]HOST", required=False)
@click.option("--rename", metavar="NEW-ID", help="Give it another id over there.")
@click.option(
    "--mode",
    type=click.Choice(["stop", "precopy", "postcopy", "hybrid"]),
    help="How memory travels: all of it while the container is frozen, or in rounds while it runs"
    " (the default where the kernel can track writes), or when it runs over there already, or"
    " (hybrid) in rounds first and what they leave afterwards.",
)
@click.option(
    "--max-downtime",
    metavar="TIME",
    default="100ms",
    show_default=True,
    help="What the rounds of pre-copy aim at: 80ms, 0.5s.",
)
@click.option(
    "--rounds",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=DEFAULT_ROUNDS,
    show_default=True,
    help="At most so many rounds of pre-copy.",
)
@click.option(
    "--on-no-convergence",
    type=click.Choice(["go-on", "give-up", "throttle", "postcopy"]),
    default="go-on",
    show_default=True,
    help="When the container writes faster than memory travels; throttle gives it less and less"
    " processor time first, postcopy lets it run over there before the rest has come.",
)
@click.option(
    "--bandwidth",
    "--bwlimit",
    "bwlimit",
    metavar="RATE",
    help="At most so many bytes per second: 500k, 20M.",
)
@click.option(
    "--plot",
    metavar="FILE.svg",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw a timeline of the migration.",
)
@click.option(
    "--rootfs",
    type=click.Choice([mode.value for mode in RootfsMode]),
    default=RootfsMode.SHARED.value,
    show_default=True,
    help="What becomes of its root file system: the same one is over there (shared); a copy is"
    " over there, compare it (present) or make it equal (changed); send it (all).",
)
@click.option(
    "--retry-for",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=RETRY_FOR_S,
    show_default=True,
    help="How long to look for the other host when the line breaks during the handover.",
)
@click.option(
    "--network",
    "networks",
    metavar="LINK=NAME",
    multiple=True,
    help="Connect the container's interface LINK with this bridge over there (a veth), or put it on"
    " this interface (a macvlan, an ipvlan). [default: of the same name as here]",
)
@click.option(
    "--accept",
    "accepted",
    metavar="REASON",
    type=click.Choice(ACCEPTABLE),
    multiple=True,
    help="Go on although the other host refuses for this reason: " + ", ".join(ACCEPTABLE) + ".",
)
@click.option("--dry-run", is_flag=True, help="Only tell what stands in the way over there.")
@click.option("--status", is_flag=True, help="Tell how an interrupted migration stands.")
@click.option("--resume", is_flag=True, help="Finish an interrupted migration.")
@click.option("--abort", is_flag=True, help="Take an interrupted migration back if it can be.")
@click.option(
    "--lose-progress",
    is_flag=True,
    help="With --abort: let it go on here although it has run over there and was lost; what it has"
    " done there is gone, and what others have seen of that may happen once more.",
)
@checkpoint_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as a JSON object.")
@ssh_options
@pass_settings
def command(
    settings: Settings,
    /,
    cid: str,
    destination: str | None,
    rename: str | None,
    mode: str | None,
    max_downtime: str,
    rounds: int,
    on_no_convergence: str,
    bwlimit: str | None,
    plot: Path | None,
    rootfs: str,
    retry_for: float,
    networks: tuple[str, ...],
    accepted: tuple[str, ...],
    dry_run: bool,
    status: bool,
    resume: bool,
    abort: bool,
    lose_progress: bool,
    allow: CheckpointOptions,
    as_json: bool,
    route_to: Callable[[Destination], Route],
) -> int:
    """Move the running container ID to another host that has wherry, and go on there.

    Its memory is sent in rounds while it runs, each with what was written to since the one before;
    then the container is frozen, the rest is streamed to a fresh sandbox over there and it is
    started there; only when it runs there is it destroyed here. Any failure before that lets it go
    on here.

    With --mode postcopy it runs over there at once and asks for its memory, which stays here,
    frozen, until all of it has come. If the connection is lost for good meanwhile, the container
    over there is killed: it cannot go on, and what it has done since is lost. It goes on here as
    it was only when somebody says so: --abort --lose-progress.

    When the connection breaks in the moment of the handover, the container stays frozen until the
    other host has been asked; --resume does that.
    """
    container = settings.load(cid)
    if status + resume + abort > 1:
        raise click.UsageError("--status, --resume and --abort exclude each other")
    if lose_progress and not abort:
        raise click.UsageError("--lose-progress goes with --abort")
    if status or resume or abort:
        taken_back = Wish.TAKE_BACK if lose_progress else Wish.ABORT
        wish = Wish.ASK if status else Wish.FINISH if resume else taken_back
        _settle(container, wish, as_json, retry_for)
        return 0
    if destination is None:
        raise click.UsageError("Missing argument '[USER@]HOST'.")
    target = Destination.parse(destination)
    if target.path is not None:
        raise MigrateError(
            f"destination {destination!r}: a container goes to a host, not to a path; write"
            f" {target}",
            reason="bad-destination",
        )
    network, route = _network(networks), route_to(target)
    if dry_run:
        return _preview(container, route, rename, network, accepted, RootfsMode(rootfs), as_json)
    limits = RoundLimits(rounds, parse_downtime(max_downtime), OnNoConvergence(on_no_convergence))
    wanted = None if mode is None else Mode(mode)
    limit = None if bwlimit is None else parse_rate(bwlimit)
    from migrate.stopcopy import migrate

    with progress_display("migrate", quiet=as_json) as progress:
        report = migrate(
            container,
            route,
            rename=rename,
            bytes_per_s=limit,
            retry_for_s=retry_for,
            progress=progress,
            ask=ask_person,
            options=allow,
            network=network,
            accepted=accepted,
            mode=wanted,
            limits=limits,
            rootfs=RootfsMode(rootfs),
        )
    for warning in report.warnings:
        click.echo(f"wherry: warning: {warning}", err=True)
    if plot is not None:
        from migrate.timeline import draw

        plot.write_text(draw(report))
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(_summary(container.id, report))
    return 0


def _network(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for text, (link, _, name) in zip(given, pairs, strict=True):
        if not link or not name:
            problem = f"{text!r} is not of the form LINK=NAME"
            raise click.BadParameter(problem, param_hint="--network")
    return {link: name for link, _, name in pairs}


def _preview(
    container: Container,
    route: Route,
    rename: str | None,
    network: dict[str, str],
    accepted: tuple[str, ...],
    rootfs: RootfsMode,
    as_json: bool,
) -> int:
    from migrate.offer import obstacles

    found = obstacles(
        container,
        route,
        rename=rename,
        ask=ask_person,
        network=network,
        accepted=accepted,
        rootfs=rootfs,
    )
    if as_json:
        fields = [{"reason": r.reason, "subject": r.subject, "sentence": r.sentence} for r in found]
        print_json({"ready": not found, "refusals": fields})
    for refusal in () if as_json else found:
        hint = f" (--accept {refusal.reason})" if refusal.reason in ACCEPTABLE else ""
        click.echo(f"{refusal.subject}: {refusal.sentence}{hint} [{refusal.reason}]")
    if found:
        return RefusedError.exit_code
    if not as_json:
        click.echo(f"{container.id}: nothing stands in the way on {route.destination}")
    return 0


def _summary(cid: str, report: MigrateReport) -> str:
    name = cid if cid == report.container_id else f"{cid} (now {report.container_id})"
    parts = (
        ("freeze", report.freeze_ns),
        ("dump and transfer", report.transfer_ns),
        ("restore", report.restore_ns),
        ("thaw", report.thaw_ns),
    )
    split = ", ".join(f"{label} {human_time(value)}" for label, value in parts)
    lines = [f"{name} runs on {report.destination}"]
    lines += [
        f"  round {one.number}: {one.pages} pages, {human_bytes(one.memory_bytes)} as"
        f" {human_bytes(one.sent_bytes)} in {human_time(one.elapsed_ns)}"
        + (f"; written to at {human_bytes(int(one.dirty_bytes_per_s))}/s" if one.number > 1 else "")
        for one in report.rounds
    ]
    if report.rounds:
        lines.append(f"  the rounds ended: {_ENDED[report.rounds_ended]}")
    lines.append(
        f"  {report.processes} processes, {report.tasks} threads,"
        f" {human_bytes(report.memory_bytes)} of memory as {human_bytes(report.sent_bytes)}"
        + (
            f"; {human_bytes(report.last_bytes)} of it in the downtime, as"
            f" {human_bytes(report.last_sent_bytes)}"
            if report.rounds
            else ""
        )
    )
    lines.append(
        f"  downtime {human_time(report.downtime_ns)}: {split}; all in"
        f" {human_time(report.total_ns)}, {report.compression:.1f} bytes of memory for each sent"
    )
    if report.later_bytes:
        lines.append(
            f"  {human_bytes(report.later_bytes)} of memory came later, as"
            f" {human_bytes(report.later_sent_bytes)} in {human_time(report.complete_ns)};"
            f" {report.faults} times the program waited for it"
        )
    if report.rootfs.mode:
        late = report.rootfs
        lines.append(
            f"  root file system: {late.files} files, {late.sent_files} sent as"
            f" {human_bytes(late.sent_bytes)}; {late.late_files} changed until the freeze, as"
            f" {human_bytes(late.late_sent_bytes)} in {human_time(late.late_ns)}"
        )
    if report.link_bytes_per_s:
        lines.append(
            f"  zstd level {report.level}: the line took"
            f" {human_bytes(int(report.link_bytes_per_s))}/s, and"
            f" {human_bytes(int(report.compress_bytes_per_s))}/s could be compressed"
        )
    return "\n".join(lines)


def _settle(container: Container, wish: Wish, as_json: bool, retry_for_s: float) -> None:
    intent = intent_of(container.metadata)
    if intent is None:
        if as_json:
            print_json({"id": container.id, "pending": False})
        else:
            click.echo(f"{container.id}: no migration is pending")
        return
    answer = settle(container, intent, wish, ask=ask_person)
    if wish is not Wish.ASK and answer.pages is not PageState.COMPLETE:
        from migrate.postcopy import feed, not_wanted

        if answer.pages is PageState.LOST:
            raise not_wanted(container, intent, answer)
        if intent.pages:
            feed(container, intent, ask=ask_person, retry_for_s=retry_for_s)
    if as_json:
        print_json(
            {
                "id": container.id,
                "pending": wish is Wish.ASK,
                "destination": str(intent.route.destination),
                "remote_id": intent.remote_id,
                "phase": str(answer.phase),
                "pages": str(answer.pages),
                "sentence": answer.sentence,
            }
        )
    else:
        click.echo(_settled(container, intent, wish, answer))


def _settled(container: Container, intent: Intent, wish: Wish, answer: Answer) -> str:
    there = f"{intent.route.destination} {_MEANING[answer.phase]}"
    if intent.pages and wish is Wish.ASK and answer.phase is Phase.RUNNING:
        there = f"{intent.route.destination} {_PAGES[answer.pages]}"
    if answer.sentence:
        there += f" ({answer.sentence})"
    if wish is Wish.ASK:
        return f"{container.id}: frozen here since the handover; {there}"
    if answer.phase in (Phase.RUNNING, Phase.COMMITTED):
        return f"{container.id}: {there}; removed here"
    return f"{container.id}: {there}; goes on here"
