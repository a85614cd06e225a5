"""``wherry image diff``: read two images, and show what changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from formats.external import ExternalImageReader
from formats.index import ImageIndex
from formats.statefile import open_image
from migrate.cli.human import human_bytes
from migrate.cli.image_source import Subject
from migrate.errors import StoreError
from migrate.image_diff import ImageContents, ImageDiff, diff, gather

if TYPE_CHECKING:
    from formats.chunks import ChunkMeta


def compare(before: Subject, after: Subject) -> ImageDiff:
    """Compare two images; contents are only read of a file that is compared with a snapshot.

    Raises:
        StoreError: Reason ``not-comparable``: they are in two stores, and one is encrypted:
            its chunks have names of their own.
        ImageError: One is damaged.
    """
    old, new = before.reader, after.reader
    of_stores = isinstance(old, ExternalImageReader), isinstance(new, ExternalImageReader)
    if all(of_stores) and before.naming != after.naming:
        raise StoreError(
            f"{before.name} and {after.name} name their chunks with different keys; export one of "
            "them and import it where the other one is",
            reason="not-comparable",
        )
    return diff(_read(before, after), _read(after, before))


def _read(subject: Subject, other: Subject) -> ImageContents:
    records = subject.reader.records()
    return gather(records, _metas(subject, other))


def _metas(subject: Subject, other: Subject) -> Iterable[ChunkMeta]:
    if isinstance(subject.reader, ExternalImageReader):
        return subject.reader.for_each_meta()
    if isinstance(other.reader, ExternalImageReader):
        return other.reader.cut(subject.reader)
    assert subject.path is not None
    with open_image(subject.path, subject.unlock) as source:
        return [entry.meta for entry in ImageIndex(source).for_each_entry()]


def print_diff(found: ImageDiff) -> None:
    """Print a comparison for people."""
    if not (found.tasks or found.files or found.memory):
        click.echo("no difference")
        return
    for task in found.tasks:
        click.echo(f"task {task.pid} {_safe(task.name)} {task.change}")
        for detail in task.details:
            click.echo(f"    {_safe(detail)}")
    for file in found.files:
        sizes = " -> ".join(
            human_bytes(size) for size in (file.size_before, file.size_after) if size is not None
        )
        click.echo(f"file {_safe(file.path)} {file.change}: {sizes}")
    for one in found.memory:
        click.echo(
            f"memory of {one.pid}, {one.start:x}-{one.end:x} {_safe(one.name)} {one.change}: "
            f"{human_bytes(one.changed_bytes)}"
        )
    changed = sum(one.changed_bytes for one in found.memory)
    click.echo(
        f"{len(found.tasks)} tasks, {len(found.files)} files, {len(found.memory)} mappings; at "
        f"most {human_bytes(changed)} of memory"
    )


def _safe(text: str) -> str:
    """Names come from the image, and might steer the terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
