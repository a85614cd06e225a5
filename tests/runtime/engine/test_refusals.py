"""What cannot be saved is refused by name before anything is touched, and the program runs on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runtime.errors import CheckpointError, RefusedError
from tests.support.command import Wherry
from tests.support.workloads import refused_workloads, stage

REFUSED = refused_workloads()
EXIT_CODES = (RefusedError.exit_code, CheckpointError.exit_code)  # the latter: try again later


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_by_name_and_runs_on(name: str, wherry: Wherry, scratch: Path) -> None:
    images = scratch / "images"
    images.mkdir()
    with stage(wherry, scratch, name) as play:
        play.start("box")
        result = wherry.fails(
            "checkpoint", "--timeout", "1", "--image-path", images / "image", "box"
        )
        assert result.returncode in EXIT_CODES, result.stderr
        reasons = re.findall(r"\[([a-z0-9-]+)\]", result.stderr)
        assert reasons, result.stderr
        assert REFUSED[name] in ("*", *reasons), result.stderr
        assert list(images.iterdir()) == []
        assert wherry.status("box") == "running"
        assert play.finish("box") == "ok"


@pytest.mark.timeout(60)
def test_every_reason_is_named_at_once(wherry: Wherry, scratch: Path) -> None:
    with stage(wherry, scratch, "refused/netlink.c") as play:
        play.start("box")
        pid = json.loads(wherry("state", "box").stdout)["pid"]
        result = wherry.fails(
            "checkpoint", "--timeout", "1", "--image-path", scratch / "image", "box"
        )
        assert re.search(r"pid \d+ \(netlink\) fd \d+", result.stderr), result.stderr
        assert Path(f"/proc/{pid}").exists()
        assert play.finish("box") == "ok"
