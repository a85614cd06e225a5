"""Every kind of state survives, as the workloads of ``tests/workloads`` see it from the inside."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Wherry
from tests.support.workloads import all_workloads, run_plainly, stage

WORKLOADS = all_workloads()


@pytest.mark.parametrize("name", WORKLOADS)
def test_passes_without_wherry(name: str, scratch: Path) -> None:
    scratch.chmod(0o777)
    assert run_plainly(name, scratch) == "ok"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", WORKLOADS)
def test_survives_checkpoint_and_restore(name: str, wherry: Wherry, scratch: Path) -> None:
    """In the container that goes on, in its copy, and in what is restored from that in turn."""
    image = scratch / "image.wherry"
    with stage(wherry, scratch, name) as play:
        play.start("original")
        play.checkpoint("original", image, leave_running=True)
        play.checkpoint("original", image, leave_running=True)
        assert play.finish("original") == "ok"
        play.restore("copy", image)
        play.checkpoint("copy", image, leave_running=False)
        play.restore("after", image)
        assert play.finish("after") == "ok"
