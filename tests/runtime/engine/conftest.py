"""What the host must offer to some of the workloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

_POOL = Path("/proc/sys/vm/nr_hugepages")


@pytest.fixture(scope="session", autouse=True)
def huge_pages() -> Iterator[None]:
    """Some huge pages, for a container and its copy; as many as before afterwards."""
    before = int(_POOL.read_text())
    _POOL.write_text(str(max(before, 16)))
    yield
    _POOL.write_text(str(before))
