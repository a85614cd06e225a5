"""A dump that is killed or fails with a program in the middle of a batch, or with a twin: the
program goes on where it was."""

from __future__ import annotations

import errno
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
from runtime.kernel import proc_task
from tests.support.command import Wherry
from tests.support.wait import wait_until
from tests.support.workloads import stage


class _Nowhere:
    """A sink for an image that nobody will read."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        return len(data)


class _Full:
    """A sink with room for so many bytes."""

    def __init__(self, room: int) -> None:
        self._room = room

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "it is full")
        return len(data)


def _dump_and_die(container: Container, batches: int, *, goes_on: bool = False) -> None:
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
    target = dump_target(container)
    with ImageWriter(_Nowhere()) as writer, dumped(target, writer, goes_on=goes_on):
        pass


def _in_child(container: Container, batches: int, *, goes_on: bool = False) -> None:
    child = os.fork()
    if child == 0:
        try:
            _dump_and_die(container, batches, goes_on=goes_on)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


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
            _in_child(container, batches)
            wait_until(lambda: _tracers(pid) == {0}, 5, "the kernel to let go of the tasks")
        assert wherry.status("box") == "running"
        assert play.finish("box") == "ok"


@pytest.mark.timeout(120)
def test_no_twin_runs_on(wherry: Wherry, scratch: Path) -> None:
    """Killed before, while and after a twin is born."""
    with stage(wherry, scratch, "torn.c") as play:
        play.start("box")
        container = Container.load(wherry.root, "box")
        pid = json.loads(wherry("state", "box").stdout)["pid"]
        for batches in range(1, 7):
            _in_child(container, batches, goes_on=True)
            wait_until(lambda: _tracers(pid) == {0}, 5, "the kernel to let go of the tasks")
            # The corpse of a twin is its parent's to take away, which does not know of it.
            wait_until(lambda: _living(container) == [pid], 5, "the twin's end")
        assert wherry.status("box") == "running"


@pytest.mark.parametrize("room", [64 << 10, 2 << 20, 6 << 20])
def test_writing_may_fail_after_the_thaw(room: int, wherry: Wherry, scratch: Path) -> None:
    with stage(wherry, scratch, "torn.c") as play:
        play.start("box")
        container = Container.load(wherry.root, "box")
        writer = ImageWriter(_Full(room))
        with (
            pytest.raises(OSError, match="it is full"),
            writer,
            dumped(dump_target(container), writer, goes_on=True),
        ):
            pass
        assert len(container.cgroups.pids()) == 1
        assert play.finish("box") == "ok"


def _living(container: Container) -> list[int]:
    return [pid for pid in container.cgroups.pids() if proc_task.stat(pid).state not in "ZX"]


def _tracers(pid: int) -> set[int]:
    return {
        int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("TracerPid:")
    }
