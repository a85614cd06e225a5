"""Checkpoint and restore of programs that consist of many small parts: what one part costs."""

from __future__ import annotations

import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark.measure import note, until
from scripts.benchmark.tool import Tool

MANY = Path(__file__).with_name("many.py")
COUNTS = {
    "processes": (1, 10, 100, 1000),
    "threads": (1, 10, 100, 1000),
    "mappings": (100, 10_000),
    "descriptors": (100, 10_000),
}
TARGETS_US = {"processes": 2000, "threads": 1000, "mappings": 20, "descriptors": 100}


@dataclass
class ManyResult:
    """Figures for one kind of part and one count, in seconds; the median of several rounds."""

    kind: str
    count: int
    freeze_s: float
    checkpoint_s: float
    restore_s: float
    image_bytes: int


def measure_many(tool: Tool, scratch: Path, rounds: int) -> list[ManyResult]:
    """Checkpoint and restore each kind of program in each size."""
    results = []
    for kind, counts in COUNTS.items():
        for count in counts:
            note(f"{count} {kind}")
            rows = [_one(tool, scratch, kind, count) for _ in range(rounds)]
            columns = {
                name: statistics.median(getattr(row, name) for row in rows)
                for name in ("freeze_s", "checkpoint_s", "restore_s", "image_bytes")
            }
            results.append(ManyResult(kind, count, **columns))
    return results


def _one(tool: Tool, scratch: Path, kind: str, count: int) -> ManyResult:
    control, image = scratch / "control", scratch / "image"
    control.mkdir(exist_ok=True)
    python = os.path.realpath(sys.executable)
    command = (python, MANY, kind, str(count), control)
    tool.run("do", "--detach", "--id", "many", "--", *command)
    ready = tool.root / "many" / "overlay" / "upper" / control.relative_to("/") / "ready"
    try:
        until(ready.exists, f"{count} {kind}")
        start = time.perf_counter()
        report = tool.json("checkpoint", "--json", "--image-path", image, "many")
        checkpoint_s = time.perf_counter() - start
        tool.run("delete", "many")
        restore_s = tool.timed("restore", "--detach", "--image-path", image, "many")
        size = image.stat().st_size
    finally:
        image.unlink(missing_ok=True)
        tool.run("delete", "--force", "many")
    return ManyResult(kind, count, report["freeze_ns"] / 1e9, checkpoint_s, restore_s, size)


def per_part_us(results: list[ManyResult], kind: str) -> dict[str, float]:
    """Microseconds that each further part costs, between the least and the greatest count."""
    own = [result for result in results if result.kind == kind]
    first, last = own[0], own[-1]
    added = last.count - first.count
    return {
        name: (getattr(last, name) - getattr(first, name)) / added * 1e6
        for name in ("freeze_s", "checkpoint_s", "restore_s")
    }


def many_table(results: list[ManyResult]) -> list[list[str]]:
    """Rows of text for people."""
    rows = [["", "freeze", "checkpoint", "restore", "image"]]
    for kind in COUNTS:
        for result in (r for r in results if r.kind == kind):
            rows.append(
                [
                    f"{result.count} {kind}",
                    f"{result.freeze_s * 1e3:.1f} ms",
                    f"{result.checkpoint_s:.3f} s",
                    f"{result.restore_s:.3f} s",
                    f"{result.image_bytes / 2**20:.1f} MiB",
                ]
            )
        each = per_part_us(results, kind)
        target = f"(target {TARGETS_US[kind]} µs)"
        rows.append(["  each further one", *(f"{value:.0f} µs" for value in each.values()), target])
    return rows


def many_report(results: list[ManyResult]) -> dict[str, Any]:
    """Figures for programs."""
    return {
        "results": [asdict(result) for result in results],
        "each_us": {kind: per_part_us(results, kind) for kind in COUNTS},
        "targets_us": TARGETS_US,
    }
