"""The processes of a container, as ``ps`` shows them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runtime.process import namespace_pids

_TTY_MAJOR_PTS = 136  # Documentation/admin-guide/devices.txt, and the seven majors after it


@dataclass(frozen=True, slots=True)
class ProcessLine:
    """One process.

    Attributes:
        uid: Owner's uid, of the host.
        pid: In our pid namespace.
        ns_pid: As seen inside the container.
        parent_pid: In our pid namespace; 0 when the parent is outside of it.
        threads: How many it has.
        state: The letter of /proc/PID/stat.
        started: Wall-clock time, seconds since 1970.
        tty: Its terminal's name, ``?`` for none.
        cpu_s: CPU time used, seconds.
        command: Arguments, or the name in brackets when it has none.
    """

    uid: int
    pid: int
    ns_pid: int
    parent_pid: int
    threads: int
    state: str
    started: float
    tty: str
    cpu_s: float
    command: str


def process_lines(pids: Iterable[int]) -> list[ProcessLine]:
    """Describe processes in the order of their pids; those that have gone are left out."""
    lines = []
    for pid in sorted(pids):
        try:
            lines.append(_process_line(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return lines


def _process_line(pid: int) -> ProcessLine:
    directory = Path(f"/proc/{pid}")
    stat = (directory / "stat").read_text()
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    ticks = os.sysconf("SC_CLK_TCK")
    command = (directory / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
    return ProcessLine(
        uid=directory.stat().st_uid,
        pid=pid,
        ns_pid=namespace_pids(pid)[-1],
        parent_pid=int(fields[1]),
        threads=int(fields[17]),
        state=fields[0],
        started=_boot_time() + int(fields[19]) / ticks,
        tty=_tty_name(int(fields[4])),
        cpu_s=(int(fields[11]) + int(fields[12])) / ticks,
        command=command.decode(errors="replace") or f"[{name}]",
    )


def _boot_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _tty_name(number: int) -> str:
    major, minor = os.major(number), os.minor(number)
    if number == 0:
        return "?"
    if _TTY_MAJOR_PTS <= major < _TTY_MAJOR_PTS + 8:
        return f"pts/{(major - _TTY_MAJOR_PTS) * 256 + minor}"
    return f"{major}:{minor}"
