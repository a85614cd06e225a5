"""Two real hosts for the tests of this folder, and the check that a test leaves them clean."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import Lab, lab_up


@pytest.fixture(scope="session")
def session_lab() -> Iterator[Lab]:
    """One lab for the whole run; use ``lab``."""
    with lab_up(f"test-{os.getpid()}") as lab:
        yield lab


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """Hosts ``a`` and ``b``, without containers and with empty home directories."""
    if not all(session_lab.call("status", check=False).returncode == 0 for _ in range(1)):
        session_lab.call("up")
    yield session_lab
    left = []
    for host in ("a", "b"):
        for cid, status in session_lab.containers(host).items():
            left.append(f"{cid} ({status}) on host {host}")
            session_lab.run(host, "wherry", "delete", "--force", cid, check=False)
        _empty(session_lab.home(host))
    assert not left, f"containers left behind: {', '.join(left)}"


def _empty(home: Path) -> None:
    for entry in home.iterdir():
        if entry.name != ".ssh":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
