"""Fixtures for tests with real containers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.sandbox.box import Boxes, boxes_in


@pytest.fixture
def boxes(scratch: Path) -> Iterator[Boxes]:
    """Makes containers; all of them are gone at the end of the test."""
    with boxes_in(scratch) as made:
        yield made
