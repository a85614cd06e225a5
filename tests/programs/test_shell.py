"""An interactive shell in a pseudo-terminal inside: jobs behind it, stopped ones, one in front."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Wherry
from tests.support.programs import MOVES, UNDER_LOAD, load, need, python_program

pytestmark = UNDER_LOAD


@pytest.mark.parametrize(("kind", "tool"), [("vi", "vi"), ("less", "less"), ("lines", "cat")])
def test_the_shell_has_all_of_its_jobs(kind: str, tool: str, wherry: Wherry, scratch: Path) -> None:
    need("bash", tool)
    with load(wherry, scratch) as shell:
        shell.start(*python_program("shell.py"), shell.directory, kind)
        shell.move_often(longest_pause_s=0.3, times=MOVES if kind == "lines" else MOVES // 2)
        assert int(shell.finish().split()[0]) > 10
