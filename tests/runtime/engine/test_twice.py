"""A program that was checkpointed before is checkpointed again in the same system call."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Wherry
from tests.support.workloads import stage


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["blocked.c", "signal_waits.c", "stopped.c", "unix_listeners.c"])
def test_second_checkpoint(name: str, wherry: Wherry, scratch: Path) -> None:
    first, second = scratch / "first", scratch / "second"
    with stage(wherry, scratch, name) as play:
        play.start("before")
        play.checkpoint("before", first, leave_running=True)
        play.checkpoint("before", second, leave_running=False)
        play.restore("between", second)
        play.checkpoint("between", first, leave_running=False)
        play.restore("after", first)
        assert play.finish("after") == "ok"
