"""Small inits and supervisors as process 1 or below it: zombies, orphans, restarts, controls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Wherry
from tests.support.programs import load, need, python_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    "init",
    [("tini", "--"), ("dumb-init", "--single-child", "--")],
    ids=["tini", "dumb-init"],
)
def test_orphans_are_reaped(init: tuple[str, ...], wherry: Wherry, scratch: Path) -> None:
    need(init[0])
    with load(wherry, scratch) as below:
        below.start(*init, *python_program("orphans.py"), below.directory, "signals")
        below.move_often(longest_pause_s=0.3)
        assert int(below.finish().split()[0]) > 10


@pytest.mark.parametrize(("kind", "tool"), [("runit", "runsvdir"), ("s6", "s6-svscan")])
def test_services_are_restarted(kind: str, tool: str, wherry: Wherry, scratch: Path) -> None:
    need(tool, "tini")
    with load(wherry, scratch) as below:
        below.start("tini", "--", *python_program("supervised.py"), below.directory, kind)
        below.move_often(longest_pause_s=0.3)
        assert int(below.finish().split()[0]) > 1
