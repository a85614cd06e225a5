"""A tracer killed with a program in the middle of a batch: the program goes on where it was."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from formats.statefile import ImageWriter
from runtime.checkpoint_container import dump_target
from runtime.container import Container
from runtime.engine import remote
from runtime.engine.dump import dumped
from tests.support.command import Wherry
from tests.support.wait import wait_until
from tests.support.workloads import stage


class _Nowhere:
    """A sink for an image that nobody will read."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        return len(data)


def _dump_and_die(container: Container, batches: int) -> None:
    """Dump until the given number of batches has been started, and be killed right then."""
    to_trap = remote.Tracee._run_to_trap
    left = batches

    def die(tracee: remote.Tracee) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        to_trap(tracee)

    vars(remote)["Tracee"]._run_to_trap = die  # in a forked child only
    with ImageWriter(_Nowhere()) as writer, dumped(dump_target(container), writer):
        pass


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "name", ["xstate.c", "registers.c", "threads.c", "handlers.c", "blocked.c"]
)
def test_program_goes_on(name: str, wherry: Wherry, scratch: Path) -> None:
    with stage(wherry, scratch, name) as play:
        play.start("box")
        container = Container.load(wherry.root, "box")
        pid = json.loads(wherry("state", "box").stdout)["pid"]
        for batches in (1, 2, 3):
            child = os.fork()
            if child == 0:
                try:
                    _dump_and_die(container, batches)
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            wait_until(lambda: _tracers(pid) == {0}, 5, "the kernel to let go of the tasks")
        assert wherry.status("box") == "running"
        assert play.finish("box") == "ok"


def _tracers(pid: int) -> set[int]:
    return {
        int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("TracerPid:")
    }
