"""OpenJDK: its compiler, collector and threads under way while it is moved."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.command import Wherry
from tests.support.programs import PROGRAMS, UNDER_LOAD, load, need

pytestmark = UNDER_LOAD


def test_threads_keep_what_they_share(wherry: Wherry, scratch: Path) -> None:
    need("java", "javac")
    classes = scratch / "classes"
    subprocess.run(["javac", "-d", classes, PROGRAMS / "Threads.java"], check=True)
    with load(wherry, scratch) as threads:
        options = ["-Xmx32m", "-XX:+UseG1GC"]
        threads.start("java", *options, "-cp", classes, "Threads", threads.directory)
        threads.move_often(longest_pause_s=0.3)
        assert int(threads.finish().split()[0]) > 1000
