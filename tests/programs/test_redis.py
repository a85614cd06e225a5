"""Redis with persistence and forks under redis-benchmark, each answer checked against a model."""

from __future__ import annotations

from pathlib import Path

from tests.support.command import Wherry
from tests.support.programs import UNDER_LOAD, load, need, python_program

pytestmark = UNDER_LOAD


def test_no_answer_is_wrong(wherry: Wherry, scratch: Path) -> None:
    need("redis-server", "redis-benchmark")
    with load(wherry, scratch) as redis:
        redis.start(*python_program("redis_load.py"), redis.directory)
        redis.move_often(longest_pause_s=0.3)
        assert int(redis.finish().split()[0]) > 1000
