"""One measurement after the other; every figure is the median of several rounds."""

from __future__ import annotations

import mmap
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark import physical
from scripts.benchmark.bundle import make_bundle
from scripts.benchmark.tool import WHERRY, Tool

HOLDER = Path(__file__).with_name("holder.py")
_TIMEOUT_S = 120.0


@dataclass
class SizeResult:
    """Figures for one size of memory; times in seconds, sizes in bytes."""

    mebibytes: int
    checkpoint_running_s: float
    checkpoint_stop_s: float
    frozen_running_s: float
    frozen_stop_s: float
    image_bytes: int
    restore_s: float
    pipeline_s: float
    pipeline_read_s: float
    pipeline_compress_s: float
    pipeline_write_s: float
    pipeline_bytes: int
    copy_back_s: float
    peak_rss_bytes: int

    @property
    def checkpoint_ratio(self) -> float:
        """Checkpoint (stop) over the physical pipeline; the target is 1.3."""
        return self.checkpoint_stop_s / self.pipeline_s

    @property
    def restore_ratio(self) -> float:
        """Restore to the first instruction over decompress-and-copy; the target is 1.5."""
        return self.restore_s / self.copy_back_s

    def as_dict(self) -> dict[str, Any]:
        """All figures with the two ratios."""
        ratios = {"checkpoint_ratio": self.checkpoint_ratio, "restore_ratio": self.restore_ratio}
        return {**asdict(self), **ratios}


def note(text: str) -> None:
    """Say on standard error what is going on."""
    print(text, file=sys.stderr, flush=True)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; TimeoutError after two minutes."""
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {_TIMEOUT_S:g} s in vain for {what}")
        time.sleep(0.0005)


class _Heart:
    """The holder's counter, seen from outside through its overlay's file."""

    def __init__(self, tool: Tool, cid: str, control: Path) -> None:
        self.path = tool.root / cid / "overlay" / "upper" / control.relative_to("/") / "beat"

    def count(self) -> int:
        """How many steps the program has made."""
        return int.from_bytes(self.path.read_bytes()[:8], "little")

    def wait_for_step_after(self, count: int) -> None:
        """Return as soon as the program has made more than *count* steps."""
        until(lambda: self.path.exists() and self.path.stat().st_size > 0, "the restored file")
        with self.path.open("rb") as file:
            beat = mmap.mmap(file.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ)
        deadline = time.monotonic() + _TIMEOUT_S
        while int.from_bytes(beat[:8], "little") <= count:
            if time.monotonic() > deadline:
                raise TimeoutError("the restored program does not go on")
            time.sleep(0.0002)  # the tool needs the processor, too


def _restore_to_first_step(
    tool: Tool, image: Path, cid: str, control: Path, saved_count: int
) -> float:
    heart = _Heart(tool, cid, control)
    start = time.perf_counter()
    with (tool.root.parent / "restore.log").open("wb") as log:
        command = [str(WHERRY), "restore", "--detach", "--image-path", str(image), cid]
        process = subprocess.Popen(
            command, env=tool.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            heart.wait_for_step_after(saved_count)
            elapsed = time.perf_counter() - start
        finally:
            status = process.wait()
    if status:
        raise RuntimeError((tool.root.parent / "restore.log").read_text())
    return elapsed


def measure_size(tool: Tool, scratch: Path, mebibytes: int, rounds: int) -> SizeResult:
    """Checkpoint and restore one workload, *rounds* times, beside the physical pipeline."""
    control = scratch / f"control-{mebibytes}"
    control.mkdir()
    rows: list[SizeResult] = []
    for number in range(rounds):
        note(f"{mebibytes} MiB, round {number + 1} of {rounds}")
        rows.append(_one_round(tool, scratch, control, mebibytes, number))
    columns = {
        name: statistics.median(getattr(row, name) for row in rows)
        for name in SizeResult.__dataclass_fields__
    }
    columns["peak_rss_bytes"] = max(row.peak_rss_bytes for row in rows)
    return SizeResult(**columns)


def _one_round(tool: Tool, scratch: Path, control: Path, mebibytes: int, number: int) -> SizeResult:
    tool.peak_rss_bytes = 0
    first, second = f"hold-{mebibytes}-{number}", f"back-{mebibytes}-{number}"
    python = Path(sys.executable).resolve()
    command = [str(python), str(HOLDER), str(mebibytes), str(control)]
    tool.run("do", "--detach", "--id", first, "--", *command)
    ready = tool.root / first / "overlay" / "upper" / control.relative_to("/") / "ready"
    until(ready.exists, "the filled memory")
    image, plain = scratch / "image", scratch / "pipeline"
    try:
        pid = tool.pid(first)
        ranges = physical.private_ranges(pid, mebibytes << 20)
        pipeline = physical.dump(pid, ranges, plain)
        copy_back_s = physical.restore(plain, pipeline.plain_bytes)
        start = time.perf_counter()
        running = tool.json("checkpoint", "--json", "--leave-running", "--image-path", image, first)
        running_s = time.perf_counter() - start
        image.unlink()
        start = time.perf_counter()
        stopped = tool.json("checkpoint", "--json", "--image-path", image, first)
        stop_s = time.perf_counter() - start
        saved = _Heart(tool, first, control).count()
        tool.run("delete", "--force", first)
        image_bytes = image.stat().st_size
        restore_s = _restore_to_first_step(tool, image, second, control, saved)
        image.unlink()
        if number == 0:
            with tool.watched():
                tool.run("checkpoint", "--image-path", image, second)
                saved = _Heart(tool, second, control).count()
                tool.run("delete", "--force", second)
                _restore_to_first_step(tool, image, second, control, saved)
        return SizeResult(
            mebibytes=mebibytes,
            checkpoint_running_s=running_s,
            checkpoint_stop_s=stop_s,
            frozen_running_s=running["frozen_ns"] / 1e9,
            frozen_stop_s=stopped["frozen_ns"] / 1e9,
            image_bytes=image_bytes,
            restore_s=restore_s,
            pipeline_s=pipeline.total_s,
            pipeline_read_s=pipeline.read_s,
            pipeline_compress_s=pipeline.compress_s,
            pipeline_write_s=pipeline.write_s,
            pipeline_bytes=pipeline.packed_bytes,
            copy_back_s=copy_back_s,
            peak_rss_bytes=tool.peak_rss_bytes,
        )
    finally:
        for cid in (first, second):
            if (tool.root / cid).exists():
                tool.run("delete", "--force", cid)
        for path in (image, plain):
            path.unlink(missing_ok=True)


def measure_life_cycle(tool: Tool, scratch: Path, rounds: int) -> dict[str, float]:
    """Seconds of create, start, delete, and of a whole ``wherry run … true``."""
    sleeper = make_bundle(scratch / "sleeper", "sleep", "1000")
    true = make_bundle(scratch / "true", "true")
    times: dict[str, list[float]] = {name: [] for name in ("create", "start", "delete", "run_true")}
    for number in range(rounds):
        cid = f"life-{number}"
        times["create"].append(tool.timed("create", "--bundle", sleeper, cid))
        times["start"].append(tool.timed("start", cid))
        times["delete"].append(tool.timed("delete", "--force", cid))
        times["run_true"].append(tool.timed("run", "--bundle", true, f"true-{number}"))
    return {f"{name}_s": statistics.median(values) for name, values in times.items()}
