"""``scripts/demo``, played with a small job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leftovers
from tests.support.wait import wait_until

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "_demo.py"
NAME = f"demo-{os.getpid()}"


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A lab of the test's own; nothing of it may be left."""
    base = tmp_path / "lab"
    yield {**os.environ, "WHERRY_LAB_DIR": str(base), "WHERRY_DEMO_LAB": NAME}
    wait_until(lambda: not _traces(base), 10, f"the end of {_traces(base)}")


def _traces(base: Path) -> list[str]:
    found = [str(path) for path in leftovers.cgroups() if NAME in str(path)]
    found += [name for name in leftovers.network_namespaces() if NAME in name]
    return found + leftovers.mounts_of(str(base)) + [str(path) for path in [base] if path.exists()]


def test_it_proves_that_no_step_was_lost(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, DEMO, "--memory", "24"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" none ") == 2 and "downtime" in done.stdout


@pytest.mark.parametrize("after", ["two hosts", "a snapshot"])
def test_stopped_in_the_middle_it_leaves_nothing(environment: dict[str, str], after: str) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-u", DEMO, "--memory", "24"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout is not None
    while after not in demo.stdout.readline():
        assert demo.poll() is None
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=60)
    assert demo.returncode == 128 + signal.SIGTERM
