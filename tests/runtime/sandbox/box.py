"""Real containers for tests, made through the sandbox's own interface, without a monitor."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.sandbox.cgroups import Cgroups
from runtime.sandbox.launch import InitProcess, RestoreStub, Stdio, create_init, exec_process
from runtime.sandbox.overlay import Overlay
from runtime.spec import Spec, check_host, do_spec, parse_spec
from tests.support.wait import wait_until

Json = dict[str, Any]
Change = Callable[[Json], None]


@dataclass
class Result:
    """How a container's program ended, and what it wrote to stdout and stderr."""

    status: int
    output: str

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()


@dataclass
class Box:
    """One container.

    The root is the host's below an overlay, with a writable ``/data`` bound from the host.
    """

    directory: Path
    spec: Spec
    cgroups: Cgroups
    overlay: Overlay | None
    init: InitProcess | None = None
    _status: int | None = None
    preserve_fds: int = 0
    hooks: Any = None
    cid: str = "box"
    extra: Json = field(default_factory=dict)

    @property
    def fifo(self) -> Path:
        return self.directory / "exec.fifo"

    @property
    def output(self) -> Path:
        return self.directory / "output"

    @property
    def running(self) -> InitProcess:
        assert self.init is not None
        return self.init

    def create(self, *, console: int | None = None, restore: RestoreStub | None = None) -> None:
        os.mkfifo(self.fifo, 0o600)
        with self.output.open("wb") as output, Path("/dev/null").open("rb") as null:
            self.init = create_init(
                self.spec,
                cid=self.cid,
                bundle=self.directory,
                cgroups=self.cgroups,
                overlay=self.overlay,
                stdio=Stdio(null.fileno(), output.fileno(), output.fileno()),
                console=console,
                exec_fifo=self.fifo,
                restore=restore,
                hooks=self.hooks,
                preserve_fds=self.preserve_fds,
            )

    def start(self) -> None:
        fd = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.register(self.running.pidfd, select.POLLIN)
            poll.poll()  # either the init opens its end, or it has failed
        finally:
            os.close(fd)
        self.running.wait_executed()

    def wait(self) -> Result:
        if self._status is None:
            _, status = os.waitpid(self.running.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
        return Result(self._status, self.output.read_text())

    def run(self) -> Result:
        self.create()
        self.start()
        return self.wait()

    def execute(self, script: str, **process: Any) -> Result:
        """Run a shell script beside the init and wait for it."""
        target = self.directory / "exec-output"
        with target.open("wb") as output, Path("/dev/null").open("rb") as null:
            pid = exec_process(
                self.running.pid,
                {
                    "cwd": "/",
                    "args": ["sh", "-c", script],
                    "env": ["PATH=/usr/bin:/bin"],
                    **process,
                },
                spec=self.spec,
                cgroups=self.cgroups,
                stdio=Stdio(null.fileno(), output.fileno(), output.fileno()),
            )
        _, status = os.waitpid(pid, 0)
        return Result(os.waitstatus_to_exitcode(status), target.read_text())

    def kill(self) -> None:
        self.running.kill()
        self._status = -signal.SIGKILL

    def tear_down(self) -> None:
        if self.init is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.init.pidfd, signal.SIGKILL)
            if self._status is None:
                self.wait()
            self.init.kill()
            os.close(self.init.pidfd)
        if self.cgroups.exists:
            self.cgroups.thaw()
            self.cgroups.kill_all()
            wait_until(lambda: not self.cgroups.pids())
        self.cgroups.destroy()


class Boxes:
    """Makes containers for one test."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._made: list[Box] = []

    def spec(self, script: str = "exit 0", change: Change | None = None) -> Json:
        """The configuration of ``wherry do`` for a shell script, changed by *change*."""
        raw = do_spec(["sh", "-c", script], hide=[self._base])
        if change is not None:
            change(raw)
        return raw

    def make(
        self, script: str = "exit 0", change: Change | None = None, *, overlay: bool = True
    ) -> Box:
        """Plan a container; ``create`` or ``run`` makes it."""
        directory = self._base / f"b{len(self._made)}"
        directory.mkdir()
        spec = parse_spec(self.spec(script, change), directory)
        check_host(spec)
        layers = Overlay.below(directory / "overlay", spec.rootfs) if overlay else None
        box = Box(directory, spec, Cgroups.plan("box", spec), layers)
        self._made.append(box)
        return box

    def run(self, script: str, change: Change | None = None) -> Result:
        """Run a shell script in a container to its end."""
        return self.make(script, change).run()

    def tear_down(self) -> None:
        for box in reversed(self._made):
            box.tear_down()


@contextlib.contextmanager
def boxes_in(base: Path) -> Iterator[Boxes]:
    boxes = Boxes(base)
    try:
        yield boxes
    finally:
        boxes.tear_down()
