"""Real jobs, checkpointed, killed and restored at twenty random moments, end as if nothing was."""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command import Wherry
from tests.support.jobs import job, move_often
from tests.support.workloads import WORKLOADS

JOBS = WORKLOADS / "jobs"
TIMES = int(os.environ.get("WHERRY_MOVES") or 20)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@contextmanager
def reference(directory: Path, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """The same job on the host, uninterrupted, beside the one that is moved."""
    directory.mkdir()
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("interpreter", "program", "steps"),
    [(sys.executable, "pipeline.py", 8000), ("/bin/bash", "pipeline.sh", 4500)],
    ids=["python", "bash"],
)
def test_no_step_is_lost_or_repeated(
    interpreter: str, program: str, steps: int, wherry: Wherry, scratch: Path
) -> None:
    alone = scratch / "alone"
    command = (interpreter, JOBS / program)
    with reference(alone, *command, alone, str(steps)) as running, job(wherry, scratch) as moving:
        moving.start(*command, moving.directory, str(steps))
        move_often(moving, TIMES, longest_pause_s=0.3)
        moving.finish(120)
        assert running.wait(120) == 0
        assert filecmp.cmp(moving.file("output"), alone / "output", shallow=False)


@pytest.mark.parametrize(
    ("journal", "rows", "times"),
    # With a rollback journal, the default, SQLite looks at the inode number of its database.
    [("wal", 12000, TIMES), ("delete", 4000, min(6, TIMES))],
    ids=["wal", "rollback"],
)
def test_sqlite_loses_no_committed_row(
    journal: str, rows: int, times: int, wherry: Wherry, scratch: Path
) -> None:
    with job(wherry, scratch) as moving:
        program = (sys.executable, JOBS / "database.py")
        moving.start(*program, moving.directory, str(rows), journal)

        def check(_number: int) -> None:
            # The files of a database in use, at one moment: consistent as after a power cut.
            copy = scratch / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            wherry("pause", moving.cid)
            committed = _numbers(moving.file("committed"))
            shutil.copytree(moving.file(""), copy)
            wherry("resume", moving.cid)
            _check_database(copy, committed)

        move_often(moving, times, longest_pause_s=0.3, between=check)
        moving.finish(120)
        committed = _numbers(moving.file("committed"))
        assert committed == list(range(rows))
        _check_database(moving.file(""), committed)


def _numbers(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


def _check_database(directory: Path, committed: list[int]) -> None:
    database = sqlite3.connect(directory / "data.sqlite")
    try:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = [row[0] for row in database.execute("SELECT id FROM entry ORDER BY id")]
        assert found == list(range(len(found)))
        assert committed == found[: len(committed)]
        total = database.execute("SELECT rows, bytes FROM total").fetchone()
        wanted = database.execute("SELECT count(*), sum(length(text)) FROM entry").fetchone()
        assert total == wanted
    finally:
        database.close()


def test_xz_output_is_bit_identical(wherry: Wherry, scratch: Path) -> None:
    size_mb = int(os.environ.get("WHERRY_XZ_MB") or 200)
    source = scratch / "input"
    _write_mixed(source, size_mb)
    alone = scratch / "alone"
    compress = 'xz -9 -T2 --stdout "$1" >"$2/output" && echo done >"$2/done"'
    shell = ("/bin/sh", "-c", compress, "sh", source)
    with reference(alone, *shell, alone) as running, job(wherry, scratch) as moving:
        moving.start(*shell, moving.directory)
        move_often(moving, TIMES, longest_pause_s=1.5, timeout=120)
        moving.finish(600)
        assert running.wait(600) == 0
        assert filecmp.cmp(moving.file("output"), alone / "output", shallow=False)
        assert subprocess.run(
            ["xz", "-t", "-F", "xz"], stdin=moving.file("output").open("rb"), check=True
        )


def _write_mixed(path: Path, size_mb: int) -> None:
    """Text that compresses and bytes that do not, turn by turn; a part of it is new.

    The rest repeats what came 30 MB before, so that the compressor's dictionary is in use
    over its whole length without taking minutes for every run.
    """
    dice = random.Random(1)
    words = [dice.randbytes(dice.randint(2, 9)).hex().encode() for _ in range(4000)]
    new = []
    for number in range(min(30, size_mb)):
        text = b" ".join(dice.choices(words, k=120_000))[:1_000_000]
        new.append(dice.randbytes(1_000_000) if number % 2 else text)
    with path.open("wb") as file:
        for number in range(size_mb):
            file.write(new[number % len(new)])
