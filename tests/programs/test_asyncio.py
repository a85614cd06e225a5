"""Python's asyncio: servers and clients over TCP, UDP and UNIX sockets in one event loop."""

from __future__ import annotations

from pathlib import Path

from tests.support.command import Wherry
from tests.support.programs import UNDER_LOAD, load, python_program

pytestmark = UNDER_LOAD


def test_every_frame_is_answered(wherry: Wherry, scratch: Path) -> None:
    with load(wherry, scratch) as streams:
        streams.start(*python_program("streams.py"), streams.directory)
        streams.move_often(longest_pause_s=0.3)
        assert int(streams.finish().split()[0]) > 100
