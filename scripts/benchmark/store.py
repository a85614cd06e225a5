"""Snapshots of a job into a store: what each costs, and what the store keeps of it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark import physical
from scripts.benchmark.measure import note, until
from scripts.benchmark.tool import Tool

CHANGER = Path(__file__).with_name("changer.py")
CHANGED = 0.01
STEPS = (
    ("first", ""),
    ("1 % changed, in one place", "together"),
    ("1 % changed, all over", "apart"),
    ("nothing changed", ""),
)


@dataclass
class StepResult:
    """One snapshot; seconds and bytes.

    Attributes:
        frozen_s: All the time that the job stood still, in the rounds before as well.
        longest_s: The longest of these times.
    """

    name: str
    total_s: float
    frozen_s: float
    longest_s: float
    plain_bytes: int
    new_bytes: int


@dataclass
class StoreResult:
    """Figures of one job.

    Attributes:
        mebibytes: Of the job's memory.
        read_s: One plain read of it.
        steps: The snapshots, in their order.
        full_s: How long the job stands still for a full snapshot into another store that stops it.
        restore_s: Of the last one, from the start of the command to its end.
        file_restore_s: The same from a state file.
    """

    mebibytes: int
    read_s: float
    steps: list[StepResult]
    full_s: float
    restore_s: float
    file_restore_s: float


def measure_store(tool: Tool, scratch: Path, mebibytes: int) -> StoreResult:
    """Take the snapshots and restore the last one."""
    control, store, image = scratch / "changer", scratch / "store", scratch / "image"
    control.mkdir()
    note(f"snapshots of {mebibytes} MiB")
    python = os.path.realpath(sys.executable)
    tool.run("store", "init", "--store", store)
    tool.run("do", "--detach", "--id", "job", "--", python, CHANGER, str(mebibytes), control)
    try:
        pid = tool.pid("job")
        inside = Path(f"/proc/{pid}/root{control}")
        until((inside / "ready").exists, "the filled memory")
        read_s = physical.read(pid, physical.private_ranges(pid, mebibytes << 20))
        steps = [_step(tool, store, inside, mebibytes, *step) for step in STEPS]
        tool.run("checkpoint", "--leave-running", "--image-path", image, "job")
        tool.run("store", "init", "--store", f"{store}-2")
        full = tool.json("snapshot", "--json", "--store", f"{store}-2", "job")
        tool.run("delete", "--force", "job")
        restore_s = tool.timed("restore", "--detach", f"{store}:latest", "job")
        tool.run("delete", "--force", "job")
        file_restore_s = tool.timed("restore", "--detach", "--image-path", image, "job")
    finally:
        tool.run("delete", "--force", "job")
        image.unlink(missing_ok=True)
        shutil.rmtree(store)
        shutil.rmtree(f"{store}-2", ignore_errors=True)
    full_s = full["frozen_ns"] / 1e9
    return StoreResult(mebibytes, read_s, steps, full_s, restore_s, file_restore_s)


def _step(
    tool: Tool, store: Path, inside: Path, mebibytes: int, name: str, change: str
) -> StepResult:
    if change:
        request = inside / "next"
        pages = int((mebibytes << 8) * CHANGED)
        temporary = inside / "request"
        temporary.write_text(f"{pages} {change}")
        temporary.rename(request)
        until(lambda: not request.exists(), "the change")
    start = time.perf_counter()
    report = tool.json("snapshot", "--json", "--leave-running", "--store", store, "job")
    total_s = time.perf_counter() - start
    made = report["snapshot"]
    longest_s = report["frozen_ns"] / 1e9
    frozen_s = longest_s + report["tracking"]["frozen_ns"] / 1e9
    return StepResult(name, total_s, frozen_s, longest_s, made["plain_bytes"], made["new_bytes"])


def store_table(result: StoreResult) -> list[list[str]]:
    """Rows of text for people."""
    rows = [
        [
            f"{result.mebibytes} MiB",
            "time",
            "frozen",
            "/ plain read",
            "/ full",
            "new bytes",
            "of all",
        ]
    ]
    for step in result.steps:
        rows.append(
            [
                f"snapshot: {step.name}",
                f"{step.total_s:.2f} s",
                f"{step.frozen_s * 1e3:.0f} ms",
                f"{step.frozen_s / result.read_s:.2f}",
                f"{step.frozen_s / result.full_s:.3f}",
                f"{step.new_bytes / 2**20:.1f} MiB",
                f"{100 * step.new_bytes / step.plain_bytes:.1f} %",
            ]
        )
    full = f"{result.full_s * 1e3:.0f} ms"
    rows.append(["full snapshot, stopping it", "", full, "", "", "", ""])
    rows.append(["one plain read", f"{result.read_s:.2f} s", *[""] * 5])
    rows.append(["restore from the store", f"{result.restore_s:.2f} s", *[""] * 5])
    rows.append(["restore from a state file", f"{result.file_restore_s:.2f} s", *[""] * 5])
    return rows


def store_report(result: StoreResult) -> dict[str, Any]:
    """Figures for programs."""
    return asdict(result)
