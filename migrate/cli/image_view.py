"""An image report as a person reads it."""

from __future__ import annotations

import datetime
import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from formats.records.task import Process
from migrate.cli.human import human_bytes
from migrate.cli.image_report import Contents, ImageReport

_MOST_FILES = 40  # open files shown one by one; the rest is counted
_PIPED_WIDTH = 240
_AGES = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def print_report(report: ImageReport) -> None:
    """Print a report: what, when and where; tasks, memory, files and sizes."""
    # What is piped into a file or a pager keeps its long lines.
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    console = Console(highlight=False, width=width)
    with console.capture() as capture:
        _print_parts(report, console)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _print_parts(report: ImageReport, console: Console) -> None:
    console.print(_facts(report))
    if report.processes:
        console.print(_tasks(report))
    if report.spaces or report.shared:
        console.print(_memory(report))
    if report.files:
        console.print(_files(report))
    if report.trees or report.deleted:
        console.print(_trees(report))
    if not report.processes:
        # Without the records that we know there is still something to say.
        console.print(_kinds(report))


def _facts(report: ImageReport) -> Table:
    table = Table.grid(padding=(0, 2))
    summary, image, host = report.summary, report.image, report.host

    def fact(name: str, value: str) -> None:
        table.add_row(Text(name, style="bold"), safe(value))

    fact("image", report.path)
    if image is not None:
        fact("container", image.container_id)
        fact("made", f"{_moment(image.created_ns)}, by wherry {image.wherry_version}")
        fact("program", _program(image.spec))
    if host is not None:
        fact("on", f"{host.hostname}, Linux {host.kernel_release}, {host.architecture}")
    features = ", ".join(report.header.features)
    fact(
        "format",
        f"{report.header.major}.{report.header.minor}" + (f" with {features}" if features else ""),
    )
    fact(
        "size",
        f"{human_bytes(summary.file_size)}; contents {_sizes(summary)} in {summary.chunks} chunks",
    )
    fact("root digest", f"{summary.root.hex()[:32]}…, not verified now")
    return table


def _sizes(sizes: Contents | Any) -> str:
    return (
        f"{human_bytes(sizes.plain_bytes)}, stored as {human_bytes(sizes.stored_bytes)} "
        f"({sizes.ratio:.1f} times smaller)"
    )


def _moment(created_ns: int) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(created_ns // 10**9, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{created_ns} ns after 1970"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC ({_age(time.time() - created_ns / 1e9)})"


def _age(seconds: float) -> str:
    for size, unit in _AGES:
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' * (count != 1)} ago"
    return "just now" if seconds >= 0 else "in the future, says this host's clock"


def _program(spec: Any) -> str:
    """The command line, from a configuration that may be anything."""
    process = spec.get("process") if isinstance(spec, dict) else None
    arguments = process.get("args") if isinstance(process, dict) else None
    if not isinstance(arguments, list):
        return "unknown"
    import shlex

    return shlex.join(str(argument) for argument in arguments)


def _tasks(report: ImageReport) -> Tree:
    threads = sum(len(process.threads) for process in report.processes.values())
    tree = Tree(
        Text(f"\ntasks: {_count(len(report.processes), 'process')}, {_count(threads, 'thread')}"),
        guide_style="dim",
    )
    children: dict[int, list[Process]] = {}
    for process in report.processes.values():
        children.setdefault(process.ppid, []).append(process)
    shown: set[int] = set()
    # Those without a parent here come first; who is left then is its own ancestor.
    tops = [one for one in report.processes.values() if one.ppid not in report.processes]
    for top in [*tops, *report.processes.values()]:
        pending = [(top, tree)]
        while pending:
            process, above = pending.pop()
            if process.pid not in shown:
                shown.add(process.pid)
                node = above.add(_task(process))
                pending += [(child, node) for child in reversed(children.get(process.pid, []))]
    return tree


def _task(process: Process) -> Text:
    words = [f"{process.pid} {_comm(process)}"]
    if process.zombie:
        words.append("zombie")
    if process.stopped:
        words.append("stopped")
    if len(process.threads) > 1:
        words.append(f"{len(process.threads)} threads")
    for thread in process.threads[:1]:
        words += [f"uid {uid}" for uid in thread.credentials.uids[1:2]]
    if process.descriptors:
        words.append(_count(len(process.descriptors), "descriptor"))
    return safe(", ".join(words))


def _comm(process: Process) -> str:
    return process.comm.decode(errors="replace")


def _memory(report: ImageReport) -> Table:
    table = _table("memory", "of", "mappings", "mapped", "contents", "stored", "ratio")
    for space in report.spaces.values():
        users = [f"{process.pid} {_comm(process)}" for process in report.users_of(space.mm_id)]
        mapped = sum(vma.end - vma.start for vma in space.vmas)
        _add_sizes(
            table,
            [", ".join(users) or f"mm {space.mm_id}", str(len(space.vmas)), human_bytes(mapped)],
            report.contents_of(space.mm_id),
        )
    for shared in report.shared.values():
        _add_sizes(
            table,
            [f"shared {shared.object_id}", "", human_bytes(shared.size)],
            report.contents_of(shared.object_id),
        )
    return table


def _files(report: ImageReport) -> Table:
    users: dict[int, list[str]] = {}
    for process in report.processes.values():
        for one in process.descriptors:
            users.setdefault(one.file_id, []).append(f"{process.pid}:{one.fd}")
    kinds = Counter(report.kind_of_file.values())
    title = "open files: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    table = _table(title, "kind", "pid:fd", "what", right=())
    for file_id, kind in list(report.kind_of_file.items())[:_MOST_FILES]:
        holders = " ".join(users.get(file_id, ["mapped"])[:6])
        table.add_row(safe(kind), safe(holders), safe(report.file_text(file_id)))
    if len(report.files) > _MOST_FILES:
        table.add_row("…", "", f"{len(report.files) - _MOST_FILES} more, see --json")
    return table


def _trees(report: ImageReport) -> Table:
    table = _table("file systems", "of", "files", "contents", "stored", "ratio")
    for tree in report.trees.values():
        _add_sizes(
            table,
            [f"{tree.kind} at {tree.path}", str(report.tree_files[tree.tree_id])],
            report.contents_of_tree(tree.tree_id),
        )
    if report.deleted:
        _add_sizes(
            table,
            ["deleted but open", str(len(report.deleted))],
            report.contents_of(*report.deleted),
        )
    return table


def _kinds(report: ImageReport) -> Table:
    table = _table("records", "kind", "count")
    for kind, count in sorted(report.kinds.items()):
        table.add_row(safe(kind), str(count))
    return table


def _table(title: str, *heads: str, right: Iterable[int] | None = None) -> Table:
    table = Table(
        title=Text("\n") + safe(title),
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
    )
    for number, head in enumerate(heads):
        aligned = number > 0 if right is None else number in right
        table.add_column(head, justify="right" if aligned else "left", header_style="dim")
    return table


def _add_sizes(table: Table, cells: list[str], sizes: Contents) -> None:
    table.add_row(
        *(safe(cell) for cell in cells),
        human_bytes(sizes.plain_bytes),
        human_bytes(sizes.stored_bytes),
        f"{sizes.ratio:.1f}",
    )


def _count(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{plural * (number != 1)}"


def safe(text: str) -> Text:
    """Text from an image, which may try to speak to the terminal: control characters escaped."""
    return Text(
        "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
        )
    )
