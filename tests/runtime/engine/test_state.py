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
    """Also a second time: of a container that was frozen before, and of one that was restored."""
    first, second = scratch / "first.wherry", scratch / "second.wherry"
    with stage(wherry, scratch, name) as play:
        play.start("before")
        play.checkpoint("before", first, leave_running=True)
        play.checkpoint("before", second, leave_running=False)
        play.restore("between", second)
        play.checkpoint("between", first, leave_running=False)
        play.restore("after", first)
        assert play.finish("after") == "ok"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", WORKLOADS)
def test_goes_on_after_a_checkpoint_beside_its_copy(
    name: str, wherry: Wherry, scratch: Path
) -> None:
    image = scratch / "image.wherry"
    with stage(wherry, scratch, name) as play:
        play.start("original")
        play.checkpoint("original", image, leave_running=True)
        assert wherry.status("original") == "running"
        assert play.finish("original") == "ok"
        play.restore("copy", image)
        assert play.finish("copy") == "ok"
