"""A numpy training loop: losses equal those of the uninterrupted run, bit for bit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.command import Wherry
from tests.support.programs import UNDER_LOAD, load, python_program

pytestmark = UNDER_LOAD


def test_learns_the_same_to_the_last_bit(wherry: Wherry, scratch: Path) -> None:
    pytest.importorskip("numpy")
    with load(wherry, scratch) as training:
        training.start(*python_program("training.py"), training.directory)
        training.move_often(longest_pause_s=0.3)
        steps = training.finish().split()[0]
        assert int(steps) > 20
        alone = scratch / "alone"
        alone.mkdir()
        subprocess.run([*python_program("training.py"), alone, steps], check=True)
        moved = training.job.file("losses").read_text()
        assert moved == (alone / "losses").read_text()
