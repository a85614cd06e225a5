"""Redis, moved to and fro under a client on a third host: what the client sees of it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark.measure import note, until
from scripts.benchmark.migration import NAME, Hosts

CLIENT = Path(__file__).with_name("redis_client.py")
ADDRESS = "10.88.0.7"


@dataclass
class VoyageResult:
    """Figures of all moves; seconds.

    Attributes:
        mebibytes: What Redis holds.
        moves: How many.
        calls: That the client made meanwhile.
        downtime_s, longest_downtime_s: Median and longest, as the report of each move says.
        stall_s, longest_stall_s: The same of the calls that took longer than 50 ms.
    """

    mebibytes: int
    moves: int
    calls: int
    downtime_s: float
    longest_downtime_s: float
    stall_s: float
    longest_stall_s: float


def measure_voyages(mebibytes: int, moves: int) -> VoyageResult:
    """Move Redis to and fro; the client checks every answer, and everything once more at the end.

    Raises:
        RuntimeError: An answer was wrong, or the connection broke.
    """
    note(f"redis of {mebibytes} MiB, moved {moves} times")
    with Hosts() as hosts, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hosts.lab("bridge")
        _start(hosts)
        command = ("ip", "netns", "exec", f"wherry-{NAME}-c", sys.executable, CLIENT, ADDRESS)
        client = subprocess.Popen([*map(str, command), name, str(mebibytes)])
        try:
            until(lambda: (folder / "ready").exists() or client.poll() is not None, "the client")
            downtimes = []
            for number in range(moves):
                source, target = ("a", "b") if number % 2 == 0 else ("b", "a")
                report = json.loads(hosts.run(source, "wherry", "migrate", "--json", "job", target))
                downtimes.append(report["downtime_ns"] / 1e9)
        finally:
            (folder / "stop").touch()
            client.wait()
            hosts.end()
        if client.returncode:
            raise RuntimeError((folder / "trouble").read_text())
        found = json.loads((folder / "found").read_text())
    stalls = [slow / 1e3 for slow in found["slow_ms"]] or [0.0]
    return VoyageResult(
        mebibytes,
        moves,
        found["calls"],
        statistics.median(downtimes),
        max(downtimes),
        statistics.median(stalls),
        max(stalls),
    )


def _start(hosts: Hosts) -> None:
    server = (
        "/usr/bin/env",
        "redis-server",
        "--save",
        "",
        "--protected-mode",
        "no",
        "--dir",
        "/tmp",
    )
    hosts.run("a", "wherry", "do", "--detach", "--id", "job", "--", *server)
    pid = json.loads(hosts.run("a", "wherry", "state", "job"))["pid"]
    inside = f"nsenter --net --target {pid} ip"
    for words in (
        f"ip link add job0 type veth peer name eth0 netns {pid}",
        "ip link set job0 master br0 up",
        f"{inside} address add {ADDRESS}/24 dev eth0",
        f"{inside} link set eth0 up",
    ):
        hosts.run("a", *words.split())


def voyage_table(result: VoyageResult) -> list[list[str]]:
    """Rows for people."""
    return [
        [f"redis, {result.mebibytes} MiB, {result.moves} moves", "median", "longest"],
        [
            "downtime",
            f"{result.downtime_s * 1e3:.0f} ms",
            f"{result.longest_downtime_s * 1e3:.0f} ms",
        ],
        [
            "client's stall",
            f"{result.stall_s * 1e3:.0f} ms",
            f"{result.longest_stall_s * 1e3:.0f} ms",
        ],
    ]


def voyage_report(result: VoyageResult) -> dict[str, Any]:
    """For the file."""
    return asdict(result)
