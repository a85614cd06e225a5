"""``wherry image``: look into images, verify, compare, copy, name and remove them.

An image is a state file, or a snapshot of a store.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from migrate.cli.store_options import Place, at_reference, opened, store_options

if TYPE_CHECKING:
    from formats.statefile import ImageSummary

_IMAGE = click.argument("text", metavar="IMAGE")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")


@click.group("image")
def command() -> None:
    """Look into images, verify, compare, copy, name and remove them.

    IMAGE is a state file, STORE:ID, or ID in the store of --store; the id may be abbreviated, and
    "latest", tags, and CONTAINER@TIME work too.
    """


@command.command("ls")
@store_options
@_JSON
def list_images(place: Place, as_json: bool) -> None:
    """List the snapshots of a store, as `wherry snapshots` does."""
    from migrate.cli.snapshots import show_snapshots

    show_snapshots(place, cid=None, tag=None, as_json=as_json)


@command.command("inspect")
@store_options
@_IMAGE
@_JSON
def inspect(place: Place, text: str, as_json: bool) -> None:
    """Show what an image holds: when, where, tasks, memory, files and sizes.

    Only the records and the index are read, so this is quick; `wherry image verify` checks
    every byte.
    """
    from formats.external import ExternalImageReader
    from migrate.cli.image_report import read_report, read_snapshot_report, report_as_json
    from migrate.cli.image_source import open_subject

    with open_subject(text, place) as subject:
        if isinstance(subject.reader, ExternalImageReader):
            report = read_snapshot_report(subject.name, subject.reader, subject.stored_size)
        else:
            assert subject.path is not None
            report = read_report(subject.path, subject.unlock)
    if as_json:
        click.echo(json.dumps(report_as_json(report), indent=2))
        return
    from migrate.cli.image_view import print_report

    print_report(report)


@command.command("verify")
@store_options
@_IMAGE
@_JSON
def verify(place: Place, text: str, as_json: bool) -> None:
    """Read a whole image back and check every byte of it.

    With --json, a damaged one gives an object too, with "ok" false, the reason code and the
    sentence; the exit status is the same as without.
    """
    from formats.errors import WherryError
    from migrate.cli.human import human_bytes, human_rate

    began = time.monotonic_ns()
    try:
        summary = _verify(text, place, quiet=as_json)
    except WherryError as exc:
        if as_json:
            click.echo(json.dumps(_failure_json(text, exc), indent=2))
        raise
    elapsed_ns = time.monotonic_ns() - began
    if as_json:
        click.echo(json.dumps(_summary_json(text, summary, elapsed_ns), indent=2))
        return
    size = human_bytes(summary.file_size)
    kept = f"in a file of {size}" if summary.stored_bytes else f"in a store, listed in {size}"
    click.echo(
        f"{text}: intact: {summary.records} records and {summary.chunks} chunks, "
        f"{human_bytes(summary.plain_bytes)} of contents {kept}; read with "
        f"{human_rate(summary.file_size + summary.plain_bytes, elapsed_ns)}; root digest "
        f"{summary.root.hex()}"
    )


def _verify(text: str, place: Place, *, quiet: bool) -> ImageSummary:
    from migrate.cli.image_source import open_subject
    from migrate.cli.progress import progress_display

    with progress_display("verify", quiet=quiet) as progress:
        total = 0

        def tell(done: int) -> None:
            progress("contents", done, total)

        with open_subject(text, place, tell) as subject:
            total = subject.size
            subject.reader.records()
            subject.reader.for_each_chunk(lambda chunk, plain: None, workers=2, check_ids=True)
            return subject.reader.finish()


@command.command("diff")
@store_options
@click.argument("before", metavar="IMAGE")
@click.argument("after", metavar="IMAGE")
@_JSON
def compare_images(place: Place, before: str, after: str, as_json: bool) -> None:
    """Show what changed between two images: tasks, files, memory by mapping.

    Contents are compared by the names of their chunks, so a change is known to the mebibyte.
    """
    from migrate.cli.image_compare import compare, print_diff
    from migrate.cli.image_source import open_subject

    with open_subject(before, place) as old, open_subject(after, place) as new:
        found = compare(old, new)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        print_diff(found)


@command.command("export")
@store_options
@_IMAGE
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_JSON
def export(place: Place, text: str, file: Path, as_json: bool) -> None:
    """Write an image as a state file, which then needs no store and is not encrypted."""
    from formats.copying import copy_image
    from formats.statefile import ImageWriter, StateFile
    from migrate.cli.image_source import open_subject
    from migrate.cli.progress import progress_display

    with (
        open_subject(text, place) as subject,
        progress_display("export", quiet=as_json) as progress,
        StateFile(file) as target,
        ImageWriter(target) as writer,
    ):
        summary = copy_image(
            subject.reader,
            writer,
            on_bytes=lambda done: progress("contents", done, subject.size),
        )
        target.commit()
    if as_json:
        click.echo(json.dumps(_summary_json(str(file), summary, 0), indent=2))


@command.command("upgrade")
@click.option(
    "--sign-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Sign the new file with this private key (Ed25519, PEM).",
)
@click.option("--force", is_flag=True, help="Also when the file is of the newest version.")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
def upgrade(sign_key: Path | None, force: bool, files: tuple[Path, ...]) -> None:
    """Rewrite state files of an older version as this wherry writes them.

    A file is replaced when the new one is whole and on the disk; if anything fails, the old one
    stays as it was. Snapshots need no upgrade: stores have one version so far.
    """
    from migrate.cli.image_upgrade import upgrade_file

    for path in files:
        click.echo(f"{path}: {upgrade_file(path, sign_key, force=force)}")


@command.command("import")
@store_options
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag it; may be repeated.")
@_IMAGE
@_JSON
def import_image(place: Place, tags: tuple[str, ...], text: str, as_json: bool) -> None:
    """Put a state file, or a snapshot of another store, into the store of --store."""
    from formats.copying import copy_image
    from migrate.cli.image_source import open_subject
    from migrate.cli.options import print_json
    from migrate.cli.progress import progress_display
    from migrate.store.carrier import snapshot_json
    from migrate.store.config import Operation
    from migrate.store.snapshots import check_tag
    from migrate.store.writer import writing

    checked = tuple(check_tag(tag) for tag in tags)
    with (
        opened(place, Operation.WRITE) as store,
        open_subject(text, place) as subject,
        progress_display("import", quiet=as_json) as progress,
        writing(store) as writer,
    ):
        copy_image(
            subject.reader,
            writer,
            on_bytes=lambda done: progress("contents", done, 0),
        )
        snapshot = writer.publish(tags=checked)
    if as_json:
        print_json(snapshot_json(snapshot))
    else:
        click.echo(f"snapshot {snapshot.short_id} of {snapshot.container_id}")


@command.command("rm")
@store_options
@click.argument("texts", metavar="SNAPSHOT...", nargs=-1, required=True)
def remove(place: Place, texts: tuple[str, ...]) -> None:
    """Remove snapshots; `wherry store prune` then reclaims their space.

    A damaged one can be removed by its whole id.
    """
    from migrate.store.config import Operation

    for text in texts:
        at, wanted = at_reference(text, place)
        with opened(at, Operation.DELETE) as store:
            removed = store.remove_snapshot(wanted)
        click.echo(f"{removed.hex()[:8]} is removed")


@command.command("tag")
@store_options
@click.option("--remove", "removed", multiple=True, metavar="TAG", help="Take this tag away.")
@click.argument("text", metavar="SNAPSHOT")
@click.argument("tags", metavar="[TAG]...", nargs=-1)
def tag(place: Place, removed: tuple[str, ...], text: str, tags: tuple[str, ...]) -> None:
    """Give a snapshot tags, or take them away; then print those that it has."""
    from migrate.cli.image_source import snapshot_at
    from migrate.store.config import Operation
    from migrate.store.snapshots import check_tag

    added = {check_tag(one) for one in tags}
    with snapshot_at(text, place, Operation.WRITE) as (store, snapshot):
        wanted = ({*snapshot.tags} | added) - {*removed}
        if wanted != {*snapshot.tags}:
            store.set_tags(snapshot, wanted)
    click.echo(" ".join(sorted(wanted)) or "no tags")


def _summary_json(text: str, summary: ImageSummary, elapsed_ns: int) -> dict[str, Any]:
    sizes = dataclasses.asdict(summary) | {"root": summary.root.hex()}
    return {"path": text, "ok": True, **sizes, "elapsed_ns": elapsed_ns}


def _failure_json(text: str, exc: Exception) -> dict[str, Any]:
    reason = getattr(exc, "reason", "error")
    return {"path": text, "ok": False, "reason": reason, "error": str(exc)}
