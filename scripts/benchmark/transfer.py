"""Ship and stop-and-copy against a pipe: the same bytes through ``zstd -1 | ssh | zstd -d``."""

from __future__ import annotations

import json
import shlex
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark.measure import note, until
from scripts.benchmark.migration import Hosts

HOLDER = Path(__file__).with_name("holder.py")
TAKE = """
import os, sys
for line in open(f"/proc/{sys.argv[1]}/maps"):
    start, end = (int(word, 16) for word in line.split()[0].split("-"))
    if end - start >= int(sys.argv[2]) << 20:
        with open(f"/proc/{sys.argv[1]}/mem", "rb", buffering=0) as memory:
            memory.seek(start)
            while start < end:
                start += sys.stdout.buffer.write(memory.read(min(1 << 20, end - start)))
"""


@dataclass
class TransferResult:
    """Medians; seconds and bytes.

    Attributes:
        pipe_memory_s: The memory through the pipe, to nowhere.
        migrate_s: From the freeze to the word that the container runs over there.
        migrate_total_s: From the offer to that word.
        pipe_file_s: The state file through the pipe, to a file that is synced.
        ship_s: The state file shipped: verified, synced and under its name.
    """

    mebibytes: int
    image_bytes: int
    pipe_memory_s: float
    migrate_s: float
    migrate_total_s: float
    pipe_file_s: float
    ship_s: float


def measure_transfer(mebibytes: int, rounds: int) -> TransferResult:
    """Move one job's memory, and its state file, in every way, turn by turn."""
    rows: list[tuple[float, ...]] = []
    with Hosts() as hosts:
        _start(hosts, mebibytes)
        pid = json.loads(hosts.run("a", "wherry", "state", "job"))["pid"]
        hosts.lab(
            "exec", "a", "--", "sh", "-c", _into("memory", "python3", "-c", TAKE, pid, mebibytes)
        )
        hosts.run("a", "wherry", "checkpoint", "--leave-running", "--image-path", "image", "job")
        image_bytes = int(hosts.run("a", "stat", "-c", "%s", "image"))
        source, target = "a", "b"
        for number in range(rounds):
            note(f"transfer {mebibytes} MiB, round {number + 1} of {rounds}")
            hosts.run(source, "wherry", "pause", "job")  # it counts without pause
            pipe_memory_s = _pipe(hosts, "memory", "zstd -dc > /dev/null")
            pipe_file_s = _pipe(hosts, "image", "zstd -dc > image && sync image")
            hosts.run("b", "rm", "image")
            shipped = json.loads(hosts.run("a", "wherry", "ship", "--json", "image", "b:"))
            hosts.run("b", "rm", "image")
            hosts.run(source, "wherry", "resume", "job")
            words = ("wherry", "migrate", "--json", "--mode", "stop", "job", target)
            moved: dict[str, Any] = json.loads(hosts.run(source, *words))
            source, target = target, source
            rows.append(
                (
                    pipe_memory_s,
                    (moved["downtime_ns"] - moved["thaw_ns"]) / 1e9,
                    moved["total_ns"] / 1e9,
                    pipe_file_s,
                    shipped["elapsed_ns"] / 1e9,
                )
            )
        hosts.end()
    middle = [statistics.median(column) for column in zip(*rows, strict=True)]
    return TransferResult(mebibytes, image_bytes, *middle)


def _start(hosts: Hosts, mebibytes: int) -> None:
    program = HOLDER.read_text()
    job = ("/usr/bin/env", "python3", "-c", program, str(mebibytes), "/tmp")
    hosts.run("a", "wherry", "do", "--detach", "--id", "job", "--", *job)
    ready = "/run/wherry/job/overlay/upper/tmp/ready"
    until(lambda: bool(hosts.run("a", "sh", "-c", f"cat {ready} || :")), "the filled memory")


def _into(path: str, *words: object) -> str:
    return f"cd; {shlex.join(map(str, words))} > {path}"


def _pipe(hosts: Hosts, path: str, sink: str) -> float:
    """Seconds of the plain pipe, the connection's own time taken off."""
    times = []
    for script in ("ssh b true", f"zstd -1 -c {path} | ssh b {shlex.quote(sink)}"):
        began = time.perf_counter()
        hosts.run("a", "sh", "-c", script)
        times.append(time.perf_counter() - began)
    return times[1] - times[0]


def transfer_table(result: TransferResult) -> list[list[str]]:
    """One row for each way, and the ratios."""
    rows = [["", f"{result.mebibytes} MiB"]]
    rows.append(["memory: zstd -1 | ssh | zstd -d", f"{result.pipe_memory_s:.2f} s"])
    rows.append(["migrate --mode stop, freeze to prepared", f"{result.migrate_s:.2f} s"])
    rows.append(["  / pipe", f"{result.migrate_s / result.pipe_memory_s:.2f}"])
    rows.append(["  all of it", f"{result.migrate_total_s:.2f} s"])
    rows.append(["state file", f"{result.image_bytes / 2**20:.0f} MiB"])
    rows.append(["state file: zstd -1 | ssh | zstd -d, sync", f"{result.pipe_file_s:.2f} s"])
    rows.append(["ship, verified and synced", f"{result.ship_s:.2f} s"])
    rows.append(["  / pipe", f"{result.ship_s / result.pipe_file_s:.2f}"])
    return rows


def transfer_report(result: TransferResult) -> dict[str, Any]:
    """For the file."""
    return asdict(result)
