"""Workers and detached processes, with real processes that are killed at real moments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from runtime.detach import Reporter, fork_detached
from runtime.errors import ContainerError, HookError
from runtime.process import ProcessRef, parent_pid
from runtime.worker import Progress, run_in_worker
from tests.support.wait import wait_until


def test_a_worker_reports_progress_and_a_result() -> None:
    seen: list[tuple[str, int, int]] = []

    def body(progress: Progress) -> dict[str, Any]:
        progress("memory", 1, 2)
        progress("memory", 2, 2)
        return {"pid": os.getpid()}

    result = run_in_worker(body, lambda *args: seen.append(args))
    assert result["pid"] != os.getpid()
    assert seen == [("memory", 1, 2), ("memory", 2, 2)]


def test_a_workers_failure_is_ours() -> None:
    def body(_progress: Progress) -> dict[str, Any]:
        raise HookError("no good")

    with pytest.raises(HookError, match="no good"):
        run_in_worker(body, lambda *_: None)


def test_a_killed_worker_is_noticed() -> None:
    def body(_progress: Progress) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    with pytest.raises(ContainerError) as caught:
        run_in_worker(body, lambda *_: None)
    assert caught.value.reason == "worker-killed"


_COMMAND = """
    import os, sys, time
    from pathlib import Path
    from runtime.interrupt import Interrupted, raise_on_signals
    from runtime.worker import Progress, run_in_worker

    def body(progress):
        try:
            Path(sys.argv[1] + ".pid").write_text(str(os.getpid()))
            time.sleep(1000)
        finally:
            Path(sys.argv[1] + ".unwound").touch()

    raise_on_signals()
    try:
        run_in_worker(body, lambda *_: None)
    except Interrupted as exc:
        sys.exit(128 + exc.signum)
"""


@pytest.mark.parametrize(
    ("signum", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
)
def test_the_worker_unwinds_when_the_command_ends(tmp_path: Path, signum: int, status: int) -> None:
    base = tmp_path / "x"
    command = subprocess.Popen([sys.executable, "-c", textwrap.dedent(_COMMAND), str(base)])
    pid_file = Path(f"{base}.pid")
    wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
    worker = ProcessRef.of(int(pid_file.read_text()))
    command.send_signal(signum)
    assert command.wait(10) == status
    assert worker.wait_gone(10)
    assert Path(f"{base}.unwound").exists()


def test_a_detached_process_is_nobodys_child_and_goes_on(tmp_path: Path) -> None:
    stop = tmp_path / "stop"

    def body(reporter: Reporter) -> None:
        reporter.progress("walk", 1, 2)
        reporter.ready({"me": os.getpid()})
        wait_until(stop.exists)

    seen: list[tuple[str, int, int]] = []
    me = fork_detached(body, progress=lambda *args: seen.append(args))["me"]
    assert seen == [("walk", 1, 2)]
    ref = ProcessRef.of(me)
    try:
        assert parent_pid(me) != os.getpid()
        assert os.getsid(me) == me
        assert ref.alive()
    finally:
        stop.touch()
    assert ref.wait_gone(10)


def test_a_detached_process_that_fails_says_why_and_one_that_dies_is_noticed() -> None:
    def fails(_reporter: Reporter) -> None:
        raise HookError("no good")

    def dies(_reporter: Reporter) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(HookError, match="no good"):
        fork_detached(fails)
    with pytest.raises(ContainerError, match="ended before"):
        fork_detached(dies)
