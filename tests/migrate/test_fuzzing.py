"""A share of what `scripts/fuzz-images` does, always the same one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_damaged_and_forged_images_and_stores(scratch: Path) -> None:
    """In a process of its own: what its children take of memory begins with what it has."""
    figures = scratch / "figures"
    found = subprocess.run(
        [
            *(sys.executable, "-m", "scripts.fuzzing", "--count", "130", "--seed", "20"),
            *("--restores", "0.03", "--json", str(figures)),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    told = json.loads(figures.read_text()) if figures.exists() else {}
    assert found.returncode == 0, found.stdout
    assert told["findings"] == []
    kinds = {kind for kind, count in told["counts"].items() if count}
    # Nearly all are refused; but accidents in what nobody reads, and honest forgeries, are read.
    assert {"image/refused", "image/read", "plain store/refused", "sealed store/refused"} <= kinds
    assert any(kind.startswith("restore/") for kind in kinds)
