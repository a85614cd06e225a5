"""Migrations between the hosts of a lab: how long a job stands still, by mode and dirty rate."""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark.measure import note, until

LAB = Path(__file__).resolve().parents[1] / "lab"
DIRTIER = Path(__file__).with_name("dirtier.py")
NAME = "bench"
RATES = (0, 10, 100)
MODES = ("stop", "precopy", "postcopy", "hybrid")


@dataclass
class MigrationResult:
    """The median of some migrations; seconds and bytes."""

    mebibytes: int
    rate_mib_s: int
    mode: str
    downtime_s: float
    total_s: float
    sent_bytes: int
    rounds: int
    ended: str


class Hosts:
    """The lab; a context manager."""

    def __enter__(self) -> Hosts:
        self.lab("up")
        return self

    def __exit__(self, *_: object) -> None:
        self.lab("down")

    def lab(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Call scripts/lab."""
        command = [sys.executable, str(LAB), "--name", NAME, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True)

    def run(self, host: str, *words: str | Path) -> str:
        """Run a command on a host.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        # Into a file, for what a detached container keeps open must not hold us.
        script = f"cd; {shlex.join(map(str, words))} > out 2> err < /dev/null"
        try:
            self.lab("exec", host, "--", "sh", "-c", script)
        except subprocess.CalledProcessError:
            sys.stderr.write(self.lab("exec", host, "--", "sh", "-c", "cd; cat err").stdout)
            raise
        return self.lab("exec", host, "--", "sh", "-c", "cd; cat out").stdout

    def start(self, mebibytes: int, rate: int) -> None:
        """Start the job on host a, and wait until its memory is filled."""
        program = DIRTIER.read_text()
        job = ("/usr/bin/env", "python3", "-c", program, str(mebibytes), str(rate), "/written")
        self.run("a", "wherry", "do", "--detach", "--id", "job", "--", *job)
        until(lambda: bool(self.written("a")), "the memory of the job")

    def written(self, host: str) -> str:
        """What the job has noted down; empty as long as it has not begun."""
        place = "/run/wherry/job/overlay/upper/written"
        return self.run(host, "sh", "-c", f"cat {place} || :")

    def end(self) -> None:
        """Remove the job wherever it is."""
        for host in ("a", "b"):
            self.run(host, "sh", "-c", "wherry delete --force job || :")


def modes(hosts: Hosts) -> list[str]:
    """Those that this wherry knows."""
    known = hosts.run("a", "wherry", "migrate", "--help")
    return [mode for mode in MODES if mode in known]


def measure_migrations(sizes: tuple[int, ...], rounds: int) -> list[MigrationResult]:
    """Migrate jobs of several sizes and rates in every mode."""
    results = []
    with Hosts() as hosts:
        for mebibytes in sizes:
            for rate in RATES:
                results.append(_by_hand(hosts, mebibytes, rate))
                for mode in modes(hosts):
                    note(f"migrate {mebibytes} MiB, {rate} MiB/s, {mode}")
                    results.append(_migrate(hosts, mebibytes, rate, mode, rounds))
    return results


def _migrate(hosts: Hosts, mebibytes: int, rate: int, mode: str, rounds: int) -> MigrationResult:
    hosts.start(mebibytes, rate)
    reports: list[dict[str, Any]] = []
    for number in range(rounds):
        source, target = ("a", "b") if number % 2 == 0 else ("b", "a")
        text = hosts.run(source, "wherry", "migrate", "--json", "--mode", mode, "job", target)
        reports.append(json.loads(text))
    hosts.end()
    middle = sorted(reports, key=lambda report: int(report["downtime_ns"]))[len(reports) // 2]
    return MigrationResult(
        mebibytes,
        rate,
        mode,
        middle["downtime_ns"] / 1e9,
        statistics.median(report["total_ns"] for report in reports) / 1e9,
        int(middle["sent_bytes"]),
        len(middle["rounds"]),
        str(middle["rounds_ended"]),
    )


def _by_hand(hosts: Hosts, mebibytes: int, rate: int) -> MigrationResult:
    """Stop, copy and restart, as one does it without migration: checkpoint, scp, restore."""
    note(f"migrate {mebibytes} MiB, {rate} MiB/s, by hand")
    hosts.start(mebibytes, rate)
    began = time.perf_counter()
    hosts.run("a", "wherry", "checkpoint", "--image-path", "image", "job")
    hosts.run("a", "scp", "-q", "image", "b:image")
    hosts.run("b", "wherry", "restore", "--detach", "--image-path", "image", "job")
    took = time.perf_counter() - began
    size = int(hosts.run("b", "stat", "-c", "%s", "image"))
    for host in ("a", "b"):
        hosts.run(host, "rm", "image")
    hosts.end()
    return MigrationResult(mebibytes, rate, "by hand", took, took, size, 0, "")


def migration_table(results: list[MigrationResult]) -> list[list[str]]:
    """One row for each migration."""
    rows = [["memory, written to at", "mode", "downtime", "total", "sent", "rounds"]]
    for result in results:
        rows.append(
            [
                f"{result.mebibytes} MiB, {result.rate_mib_s} MiB/s",
                result.mode,
                f"{result.downtime_s * 1e3:.0f} ms",
                f"{result.total_s:.2f} s",
                f"{result.sent_bytes / 2**20:.0f} MiB",
                f"{result.rounds} {result.ended}".strip(),
            ]
        )
    return rows


def migration_report(results: list[MigrationResult]) -> list[dict[str, Any]]:
    """For the file."""
    return [asdict(result) for result in results]
