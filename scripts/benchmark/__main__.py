"""Command line of the benchmark: measures, prints a table, and writes JSON when asked."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.benchmark.index import index_table, measure_index
from scripts.benchmark.measure import SizeResult, measure_life_cycle, measure_size, note
from scripts.benchmark.migration import measure_migrations, migration_report, migration_table
from scripts.benchmark.scale import many_report, many_table, measure_many
from scripts.benchmark.store import measure_store, store_report, store_table
from scripts.benchmark.tool import Tool
from scripts.benchmark.transfer import measure_transfer, transfer_report, transfer_table
from scripts.benchmark.voyages import measure_voyages, voyage_report, voyage_table

SIZES = (64, 512, 2048)
STORE_SIZE = 1024
REDIS_SIZE, REDIS_MOVES = 1024, 10
TRANSFER_SIZE = 1024
TARGETS = {"checkpoint_ratio": 1.3, "restore_ratio": 1.5, "run_true_s": 0.120, "rss_mib": 150}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="MIB")
    parser.add_argument(
        "--only",
        choices=("sizes", "many", "store", "index", "life", "migrate", "ship"),
        help="measure just one of the parts",
    )
    parser.add_argument("part", nargs="?", choices=("migrate", "ship"), help="the same as --only")
    parser.add_argument("--rounds", type=int, default=3, help="per size; the median is reported")
    parser.add_argument("--directory", type=Path, help="where images go [a temporary directory]")
    options = parser.parse_args()
    options.only = options.part or options.only
    return options


def _machine() -> dict[str, Any]:
    host = os.uname()
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = int(Path("/proc/meminfo").read_text().split()[1]) >> 10
    return {
        "kernel": host.release,
        "architecture": host.machine,
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_mib": memory,
        "date": time.strftime("%Y-%m-%d"),
    }


def _size_table(results: list[SizeResult]) -> list[list[str]]:
    rows = [["", *(f"{result.mebibytes} MiB" for result in results)]]

    def add(title: str, *cells: str) -> None:
        rows.append([title, *cells])

    add("checkpoint, leave running", *(f"{r.checkpoint_running_s:.3f} s" for r in results))
    add("  frozen for", *(f"{r.frozen_running_s * 1e3:.0f} ms" for r in results))
    add(
        "  frozen / read alone", *(f"{r.frozen_running_s / r.pipeline_read_s:.2f}" for r in results)
    )
    add("checkpoint and stop", *(f"{r.checkpoint_stop_s:.3f} s" for r in results))
    add("physical pipeline", *(f"{r.pipeline_s:.3f} s" for r in results))
    add("  read alone", *(f"{r.pipeline_read_s:.3f} s" for r in results))
    add("  zstd -1 alone, one thread", *(f"{r.pipeline_compress_s:.3f} s" for r in results))
    add("  write and sync alone", *(f"{r.pipeline_write_s:.3f} s" for r in results))
    add("checkpoint / pipeline", *(f"{r.checkpoint_ratio:.2f}" for r in results))
    add("image", *(f"{r.image_bytes / 2**20:.0f} MiB" for r in results))
    add("restore to first instruction", *(f"{r.restore_s:.3f} s" for r in results))
    add("decompress and copy", *(f"{r.copy_back_s:.3f} s" for r in results))
    add("restore / decompress and copy", *(f"{r.restore_ratio:.2f}" for r in results))
    add("tool's peak memory", *(f"{r.peak_rss_bytes / 2**20:.0f} MiB" for r in results))
    return rows


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        head, *cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([row[0].ljust(len(head)), *cells]))
    print()


def _measure(tool: Tool, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is asked for and print each part's table; returns everything for the file."""
    report: dict[str, Any] = {"machine": _machine(), "rounds": options.rounds, "targets": TARGETS}
    if options.only in (None, "sizes"):
        results = [measure_size(tool, scratch, size, options.rounds) for size in options.sizes]
        _print_table(_size_table(results))
        report["sizes"] = [result.as_dict() for result in results]
    if options.only in (None, "many"):
        many = measure_many(tool, scratch, options.rounds)
        _print_table(many_table(many))
        report["many"] = many_report(many)
    if options.only in (None, "store"):
        stored = measure_store(tool, scratch, STORE_SIZE)
        _print_table(store_table(stored))
        report["store"] = store_report(stored)
    if options.only in (None, "index"):
        report["index"] = measure_index()
        _print_table(index_table(report["index"]))
    if options.only in (None, "migrate"):
        migrations = measure_migrations(tuple(options.sizes), options.rounds)
        _print_table(migration_table(migrations))
        report["migrations"] = migration_report(migrations)
        voyages = measure_voyages(REDIS_SIZE, REDIS_MOVES)
        _print_table(voyage_table(voyages))
        report["redis"] = voyage_report(voyages)
    if options.only in (None, "ship"):
        transfer = measure_transfer(TRANSFER_SIZE, options.rounds)
        _print_table(transfer_table(transfer))
        report["transfer"] = transfer_report(transfer)
    if options.only in (None, "life"):
        note("create, start, delete and run")
        life = measure_life_cycle(tool, scratch, max(options.rounds * 3, 5))
        for name, seconds in life.items():
            print(f"{name.removesuffix('_s').replace('_', ' '):10} {seconds * 1e3:6.0f} ms")
        report["life_cycle"] = life
    return report


def main() -> None:
    """Measure everything and report it."""
    options = _arguments()
    scratch = Path(tempfile.mkdtemp(prefix="w-bench-", dir=options.directory))
    root = scratch / "r"
    root.mkdir()
    tool = Tool(root)
    try:
        report = _measure(tool, scratch, options)
    finally:
        for entry in root.iterdir():
            tool.run("delete", "--force", entry.name)
        shutil.rmtree(scratch)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


main()
