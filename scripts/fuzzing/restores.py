"""Mutants that are really restored, by the command."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

from scripts.benchmark.tool import Tool
from scripts.fuzzing.judge import MEMORY_LIMIT, TIME_LIMIT_S, Verdict
from scripts.fuzzing.mutations import MARK, RESTORABLE, Mutant, Original

_WHERRY = Path(sys.executable).parent / "wherry"
_INTERNAL_ERROR = 70
_ID = "fuzzed"


def restorable(dice: random.Random, image: Original) -> Mutant:
    """A forgery with which a restore gets far."""
    what, data = dice.choice(RESTORABLE)(dice, image)
    return Mutant(what, data, forged=True)


def restore(tool: Tool, scratch: Path, mutant: Mutant) -> Verdict:
    """Restore a mutant; afterwards nothing of it is left."""
    path = scratch / "mutant.wherry"
    path.write_bytes(mutant.data)
    code, said, peak = _run(tool, scratch, "restore", "--detach", "--image-path", str(path), _ID)
    ended, left, _ = _run(tool, scratch, "delete", "--force", _ID)
    listed = json.loads(tool.run("list", "--format", "json") or "[]") or []
    if code is None or ended is None:
        return Verdict("hang", said + left, peak)
    if listed:
        return Verdict("crash", f"left behind: {listed}; {said}; {left}", peak)
    if code < 0 or code == _INTERNAL_ERROR or "Traceback" in said or "internal error" in said:
        return Verdict("crash", f"exit {code}: {said}", peak)
    if peak > MEMORY_LIMIT:
        return Verdict("memory", f"{peak >> 20} MiB: {said}", peak)
    if code and len(said) < 20:
        return Verdict("crash", f"exit {code} without a word", peak)
    return Verdict("refused" if code else "read", said, peak)


def _run(tool: Tool, scratch: Path, *args: str) -> tuple[int | None, str, int]:
    """Exit status (None for one that had to be killed), what was said, and the peak memory."""
    log = scratch / "said"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(_WHERRY), *args],
            env=tool.environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
        watched = os.pidfd_open(process.pid)
        try:
            ended = bool(select.select([watched], [], [], 2 * TIME_LIMIT_S)[0])
            if not ended:
                signal.pidfd_send_signal(watched, signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            os.close(watched)
        process.returncode = os.waitstatus_to_exitcode(status)
    said = log.read_text(errors="replace")[-3000:]
    # The monitor of a detached container was forked from the command: its peak counts, too.
    peak = max(usage.ru_maxrss << 10, _peak_of_monitor(tool))
    return (process.returncode if ended else None), said, peak


def _peak_of_monitor(tool: Tool) -> int:
    try:
        state = json.loads((tool.root / _ID / "state.json").read_text())
        status = Path(f"/proc/{state['monitor']['pid']}/status").read_text()
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def escaped(*but: Path) -> list[str]:
    """Files of the mark's name anywhere on this host, but below certain directories."""
    found = []
    for top in ("/", "/tmp", "/run", "/dev", "/dev/shm", "/var/tmp"):
        device = os.stat(top).st_dev
        for directory, folders, files in os.walk(top):
            here = Path(directory)
            if any(here.is_relative_to(one) for one in but):
                folders.clear()
                continue
            found += [f"{directory}/{name}" for name in (*folders, *files) if MARK in name]
            folders[:] = [name for name in folders if _is_on(f"{directory}/{name}", device)]
    return sorted(set(found))


def _is_on(path: str, device: int) -> bool:
    try:
        return os.lstat(path).st_dev == device
    except OSError:
        return False
