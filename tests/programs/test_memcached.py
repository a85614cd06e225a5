"""memcached with threads: each value is what the client that owns it has put there."""

from __future__ import annotations

from pathlib import Path

from tests.support.command import Wherry
from tests.support.programs import UNDER_LOAD, load, need, python_program

pytestmark = UNDER_LOAD


def test_no_value_is_wrong(wherry: Wherry, scratch: Path) -> None:
    need("memcached")
    with load(wherry, scratch) as cache:
        cache.start(*python_program("memcached_load.py"), cache.directory)
        cache.move_often(longest_pause_s=0.3)
        assert int(cache.finish().split()[0]) > 1000
