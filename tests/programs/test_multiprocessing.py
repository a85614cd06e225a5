"""Python's multiprocessing: shared memory, semaphores, conditions, queues, a pool and a manager."""

from __future__ import annotations

from pathlib import Path

from tests.support.command import Wherry
from tests.support.programs import UNDER_LOAD, load, python_program

pytestmark = UNDER_LOAD


def test_no_transfer_is_lost(wherry: Wherry, scratch: Path) -> None:
    with load(wherry, scratch) as bank:
        bank.start(*python_program("processes.py"), bank.directory)
        bank.move_often(longest_pause_s=0.3)
        assert int(bank.finish().split()[0]) > 1000
