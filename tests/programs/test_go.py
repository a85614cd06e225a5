"""The Go runtime: preemption by signals, timers, channels, children, net/http."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.command import Wherry
from tests.support.programs import PROGRAMS, UNDER_LOAD, load, need

pytestmark = UNDER_LOAD


def test_routines_and_requests_go_on(wherry: Wherry, scratch: Path) -> None:
    need("go")
    program = scratch / "routines"
    source = PROGRAMS / "routines.go"
    environment = {**os.environ, "GOCACHE": str(scratch / "go-cache"), "GO111MODULE": "off"}
    subprocess.run(["go", "build", "-o", program, source], env=environment, check=True)
    with load(wherry, scratch) as routines:
        routines.start(program, routines.directory)
        routines.move_often(longest_pause_s=0.3)
        assert int(routines.finish().split()[0]) > 20
