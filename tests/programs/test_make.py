"""make and gcc with two jobs: short processes, vfork, the jobserver's pipe, files in a hurry."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.command import Wherry
from tests.support.programs import PROGRAMS, UNDER_LOAD, load, need, python_program

pytestmark = UNDER_LOAD


def test_every_build_is_that_of_an_uninterrupted_run(wherry: Wherry, scratch: Path) -> None:
    need("make", "gcc")
    with load(wherry, scratch) as build:
        project = build.directory / "project"
        subprocess.run([*python_program("project.py"), project, "40"], check=True)
        build.start("/bin/sh", PROGRAMS / "build.sh", build.directory)
        build.move_often(longest_pause_s=0.3)
        rounds = int(build.finish().split()[0])
        # On the host, at the same path.
        (build.directory / "stop").unlink(missing_ok=True)
        subprocess.run(["make", "-s", "-C", project], check=True)
        digest = "sha256sum -- *.o libparts.a answer answer.txt | sha256sum"
        alone = subprocess.run(
            ["/bin/sh", "-c", digest], cwd=project, check=True, capture_output=True, text=True
        )
        assert build.job.file("sums").read_text() == alone.stdout * rounds
