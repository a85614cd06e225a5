"""The example in the README, run as it stands."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.command import WHERRY, Wherry
from tests.support.sources import ROOT


def _example() -> str:
    text = (ROOT / "README.md").read_text()
    block = text.partition("<!-- example -->")[2].partition("<!-- end of example -->")[0]
    return block.partition("```sh\n")[2].partition("```")[0]


@pytest.mark.timeout(90)
def test_the_thirty_second_example_runs(wherry: Wherry) -> None:
    environment = wherry.environment({"PATH": f"{WHERRY.parent}:{os.environ['PATH']}"})
    result = subprocess.run(
        ["bash", "-e", "-u", "-c", _example()],
        cwd=wherry.scratch,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    numbers = [int(line) for line in result.stdout.splitlines() if line.isdigit()]
    assert len(numbers) == 2, result.stdout
    assert 0 < numbers[0] <= numbers[1] < numbers[0] + 60
    assert wherry("list", "--quiet").stdout.strip() == ""
