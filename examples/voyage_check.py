"""Reads the logs of ``voyage.py`` and says whether anything was lost, repeated or damaged.

Arguments: directories with logs. Exit status 0 when every voyage is whole. With ``--json`` the
findings are one JSON object per directory.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any


def check(directory: Path) -> dict[str, Any]:
    """The findings about one voyage; ``trouble`` is empty when it is whole."""
    trouble: list[str] = []
    steps, longest_ns, ends = _check_chain(directory / "chain.log", trouble)
    pipeline = _check_pipeline(directory / "pipe.log", trouble)
    held = _last_number(directory / "hold.log")
    if (directory / "trouble.log").exists():
        trouble += (directory / "trouble.log").read_text().splitlines()
    return {
        "steps": steps,
        "pipeline_steps": pipeline,
        "held_mib": held,
        "longest_pause_ns": longest_ns,
        "last_digest": ends,
        "trouble": trouble,
    }


def _whole_lines(path: Path) -> list[list[str]]:
    text = path.read_text() if path.exists() else ""
    return [line.split() for line in text.split("\n")[:-1]]


def _check_chain(path: Path, trouble: list[str]) -> tuple[int, int, str]:
    digest, clock, longest = b"", 0, 0
    step = 0
    for step, words in enumerate(_whole_lines(path), 1):
        digest = hashlib.blake2b(digest + step.to_bytes(8, "little"), digest_size=16).digest()
        if words[:3] != ["step", str(step), digest.hex()]:
            trouble.append(f"{path.name}: line {step} is {' '.join(words[:3])!r}")
            break
        now = int(words[3])
        if now < clock:
            trouble.append(f"{path.name}: the clock ran backwards at step {step}")
        if clock:
            longest = max(longest, now - clock)
        clock = now
    if not step:
        trouble.append(f"{path.name}: no step at all")
    return step, longest, digest.hex()


def _check_pipeline(path: Path, trouble: list[str]) -> int:
    step = 0
    for step, words in enumerate(_whole_lines(path), 1):
        if words != ["step", str(step), str(step * step)]:
            trouble.append(f"{path.name}: line {step} is {' '.join(words)!r}")
            break
    if not step:
        trouble.append(f"{path.name}: no step at all")
    return step


def _last_number(path: Path) -> int:
    lines = _whole_lines(path)
    return int(lines[-1][1]) if lines else 0


def main() -> int:
    """Check every directory named on the command line."""
    as_json = "--json" in sys.argv
    whole = True
    for name in sys.argv[1:]:
        if name == "--json":
            continue
        found = check(Path(name))
        whole = whole and not found["trouble"]
        if as_json:
            print(json.dumps(found))
        else:
            verdict = "; ".join(found["trouble"]) or "whole"
            print(
                f"{name}: {found['steps']} steps, {found['pipeline_steps']} in the pipe, {verdict}"
            )
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
