"""nginx with workers, a proxy to itself and reloads: wrk has not one failed request."""

from __future__ import annotations

from pathlib import Path

from tests.support.command import Wherry
from tests.support.programs import PROGRAMS, UNDER_LOAD, load, need

pytestmark = UNDER_LOAD


def test_no_request_fails(wherry: Wherry, scratch: Path) -> None:
    need("nginx", "wrk", "curl")
    with load(wherry, scratch) as web:
        web.start("/bin/sh", PROGRAMS / "wrk_load.sh", web.directory)
        web.move_often(longest_pause_s=0.3)
        assert int(web.finish().split()[0]) > 100
