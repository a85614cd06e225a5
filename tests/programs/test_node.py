"""Node.js: an HTTP server and its clients, worker threads, timers, children, the thread pool."""

from __future__ import annotations

from pathlib import Path

from tests.support.command import Wherry
from tests.support.programs import PROGRAMS, UNDER_LOAD, load, need

pytestmark = UNDER_LOAD


def test_every_answer_is_right(wherry: Wherry, scratch: Path) -> None:
    need("node")
    with load(wherry, scratch) as web:
        web.start("node", "--max-old-space-size=64", PROGRAMS / "web.js", web.directory)
        web.move_often(longest_pause_s=0.3)
        assert int(web.finish().split()[0]) > 20
