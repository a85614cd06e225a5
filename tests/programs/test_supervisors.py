"""Small inits and supervisors as process 1 or below it: zombies, orphans, restarts, controls."""

from __future__ import annotations

from pathlib import Path

from tests.support.command import Wherry
from tests.support.programs import UNDER_LOAD, load, need, python_program

pytestmark = UNDER_LOAD


def test_orphans_are_reaped(wherry: Wherry, scratch: Path) -> None:
    need("tini")
    with load(wherry, scratch) as below:
        below.start("tini", "--", *python_program("orphans.py"), below.directory)
        below.move_often(longest_pause_s=0.3)
        assert int(below.finish().split()[0]) > 10


def test_services_are_restarted(wherry: Wherry, scratch: Path) -> None:
    need("dumb-init", "runsvdir", "s6-svscan")
    # runsvdir knows its services by the device and inode numbers of their directories, and a device
    # number stays only where nobody else has it meanwhile. Those of a volume are the host's.
    services, inside = scratch / "services", scratch / "inside"
    services.mkdir()
    with load(wherry, scratch) as below:
        below.job.options = ("--volume", f"{services}:{inside}")
        program = python_program("supervised.py")
        below.start("dumb-init", "--", *program, below.directory, inside)
        below.move_often(longest_pause_s=0.3)
        assert int(below.finish().split()[0]) > 1
