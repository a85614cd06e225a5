"""One container through two hundred checkpoints and restores: nothing piles up anywhere."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import leftovers
from tests.support.command import Wherry
from tests.support.jobs import Job, job
from tests.support.wait import wait_until
from tests.support.workloads import WORKLOADS

TIMES = int(os.environ.get("WHERRY_CYCLES") or 200)
PART = max(TIMES // 8, 2)  # cycles whose median is one figure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Inventory:
    """What a container consists of, as the host sees it."""

    processes: int
    threads: int
    descriptors: tuple[tuple[str, int], ...]
    mappings: int
    mounts: int
    memory_kib: int


def inventory(wherry: Wherry, cid: str) -> Inventory:
    """Count everything of a paused container."""
    init = json.loads(wherry("state", cid).stdout)["pid"]
    pids = [init, *_descendants(init)]
    kinds: Counter[str] = Counter()
    threads = mappings = memory = 0
    for pid in pids:
        base = Path(f"/proc/{pid}")
        links = (os.readlink(fd) for fd in (base / "fd").iterdir())
        kinds.update("file" if link[0] == "/" else link.partition(":")[0] for link in links)
        threads += len(list((base / "task").iterdir()))
        mappings += len((base / "maps").read_text().splitlines())
        rollup = (base / "smaps_rollup").read_text()
        memory += int(rollup.partition("Pss_Anon:")[2].split()[0])
    mounts = len(Path(f"/proc/{init}/mountinfo").read_text().splitlines())
    return Inventory(len(pids), threads, tuple(sorted(kinds.items())), mappings, mounts, memory)


def _descendants(pid: int) -> list[int]:
    children = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in _descendants(child)]


def host_side(wherry: Wherry) -> tuple[int, int, int]:
    """Processes of ours, cgroups of ours that exist, and mounts of ours on the host."""
    return (
        len(leftovers.processes_of(wherry.root)),
        sum(path.exists() for path in wherry.seen_cgroups),
        Path("/proc/self/mountinfo").read_text().count(f" {wherry.root}/"),
    )


def one_cycle(moving: Job, number: int) -> tuple[int, float]:
    """Move the job once; the image's size and the seconds that the restore took."""
    wherry, image = moving.wherry, moving.scratch / "image"
    wherry("checkpoint", "--image-path", image, moving.cid)
    wherry("delete", moving.cid)
    moving.generation = number
    began = time.monotonic()
    wherry("restore", "--detach", "--image-path", image, moving.cid)
    took = time.monotonic() - began
    size = image.stat().st_size
    image.unlink()
    return size, took


def counted(moving: Job) -> tuple[Inventory, tuple[int, int, int]]:
    """Both inventories, at a moment when nothing moves."""
    moving.wherry("pause", moving.cid)
    found = inventory(moving.wherry, moving.cid), host_side(moving.wherry)
    moving.wherry("resume", moving.cid)
    return found


def test_nothing_piles_up(wherry: Wherry, scratch: Path) -> None:
    with job(wherry, scratch) as moving:
        moving.start(sys.executable, WORKLOADS / "jobs" / "holder.py", moving.directory)
        wait_until(lambda: moving.file("ready").exists(), 30, "the job's start")
        sizes, times = [], []
        early = None
        for number in range(1, TIMES + 1):
            size, took = one_cycle(moving, number)
            sizes.append(size)
            times.append(took)
            if number == PART:
                early = counted(moving)
        late = counted(moving)
        init = json.loads(wherry("state", moving.cid).stdout)["pid"]
        Path(f"/proc/{init}/root{moving.directory}/stop").touch()
        moving.finish(60)
    assert early is not None
    (then, host_then), (now, host_now) = early, late
    assert host_now == host_then
    assert now.memory_kib <= then.memory_kib * 1.05 + 256, f"{then} became {now}"
    assert now.mappings == then.mappings
    assert (now.processes, now.threads, now.descriptors, now.mounts) == (
        then.processes,
        then.threads,
        then.descriptors,
        then.mounts,
    )
    assert statistics.median(sizes[-PART:]) <= statistics.median(sizes[:PART]) * 1.05
    # Not a matter of speed but of growth, over so many cycles that noise evens out.
    assert statistics.median(times[-PART:]) <= statistics.median(times[:PART]) * 2
