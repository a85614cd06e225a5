"""Read what a container uses, from cgroup files, in the shape of ``runc events``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NO_LIMIT = 1 << 62  # cgroup v1 writes a huge number for "no limit"


def read_stats(v1: Mapping[str, Path], v2: Path | None) -> dict[str, Any]:
    """Usage of a container.

    Args:
        v1: Directory of each cgroup v1 controller.
        v2: Directory in the cgroup v2 tree.

    Returns:
        ``cpu`` (``usage_ns``, ``user_ns``, ``system_ns``, throttling), ``memory`` (bytes:
        ``usage``, ``limit``, ``max_usage``, ``swap_usage``, and ``stat``), ``pids`` (``current``,
        ``limit``), ``io`` (``read_bytes``, ``write_bytes``). A limit that is not set is None; a
        part without a controller on this host is absent.
    """
    found: dict[str, Any] = {}
    parts = (
        ("cpu", _cpu_v1 if "cpuacct" in v1 else _cpu_v2, v1.get("cpuacct", v2)),
        ("memory", _memory_v1 if "memory" in v1 else _memory_v2, v1.get("memory", v2)),
        ("pids", _pids, v1.get("pids", v2)),
        ("io", _io_v1 if "blkio" in v1 else _io_v2, v1.get("blkio", v2)),
    )
    for name, read, directory in parts:
        if directory is None:
            continue
        try:
            found[name] = read(directory)
        except FileNotFoundError:
            continue  # the controller is not there
    if "cpu" in v1 and "cpu" in found:
        found["cpu"]["throttling"] = _key_values(v1["cpu"] / "cpu.stat")
    return found


def _key_values(path: Path) -> dict[str, int]:
    values = {}
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        values[key] = int(value)
    return values


def _number(path: Path) -> int | None:
    text = path.read_text().strip()
    if text == "max":
        return None
    value = int(text)
    return None if value >= _NO_LIMIT else value


def _optional(path: Path) -> int | None:
    return _number(path) if path.exists() else None


def _cpu_v1(directory: Path) -> dict[str, Any]:
    return {
        "usage_ns": _number(directory / "cpuacct.usage"),
        "user_ns": _number(directory / "cpuacct.usage_user"),
        "system_ns": _number(directory / "cpuacct.usage_sys"),
    }


def _cpu_v2(directory: Path) -> dict[str, Any]:
    stat = _key_values(directory / "cpu.stat")
    throttling = {key: stat[key] for key in ("nr_periods", "nr_throttled") if key in stat}
    return {
        "usage_ns": stat["usage_usec"] * 1000,
        "user_ns": stat["user_usec"] * 1000,
        "system_ns": stat["system_usec"] * 1000,
        **({"throttling": throttling} if throttling else {}),
    }


def _memory_v1(directory: Path) -> dict[str, Any]:
    return {
        "usage": _number(directory / "memory.usage_in_bytes"),
        "limit": _number(directory / "memory.limit_in_bytes"),
        "max_usage": _number(directory / "memory.max_usage_in_bytes"),
        "swap_usage": _optional(directory / "memory.memsw.usage_in_bytes"),
        "stat": _key_values(directory / "memory.stat"),
    }


def _memory_v2(directory: Path) -> dict[str, Any]:
    return {
        "usage": _number(directory / "memory.current"),
        "limit": _number(directory / "memory.max"),
        "max_usage": _optional(directory / "memory.peak"),
        "swap_usage": _optional(directory / "memory.swap.current"),
        "stat": _key_values(directory / "memory.stat"),
    }


def _pids(directory: Path) -> dict[str, Any]:
    return {
        "current": _number(directory / "pids.current"),
        "limit": _number(directory / "pids.max"),
    }


def _io_v1(directory: Path) -> dict[str, Any]:
    totals = {"Read": 0, "Write": 0}
    path = directory / "blkio.throttle.io_service_bytes_recursive"
    for line in path.read_text().splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] in totals:
            totals[fields[1]] += int(fields[2])
    return {"read_bytes": totals["Read"], "write_bytes": totals["Write"]}


def _io_v2(directory: Path) -> dict[str, Any]:
    totals = {"rbytes": 0, "wbytes": 0}
    for line in (directory / "io.stat").read_text().splitlines():
        for field in line.split()[1:]:
            key, _, value = field.partition("=")
            if key in totals:
                totals[key] += int(value)
    return {"read_bytes": totals["rbytes"], "write_bytes": totals["wbytes"]}
