"""What the host must offer to some of the workloads."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_POOL = Path("/proc/sys/vm/nr_hugepages")
_LOCK = Path(tempfile.gettempdir()) / "wherry-tests-hugepages.lock"


@pytest.fixture(autouse=True)
def huge_pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """Some huge pages for those who use them, one test at a time; as many as before afterwards."""
    if "special_memory" not in request.node.name:
        yield
        return
    with _LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = int(_POOL.read_text())
        _POOL.write_text(str(max(before, 16)))
        yield
        _POOL.write_text(str(before))
