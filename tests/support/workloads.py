"""Running the programs of ``tests/workloads``: plainly, and through checkpoint and restore.

A program's control directory lies on the host's root, so that a container made by ``wherry do``
sees it and writes to it through its overlay: every container has its own ``go`` and ``result``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.support.command import Wherry
from tests.support.wait import wait_until

WORKLOADS = Path(__file__).resolve().parents[1] / "workloads"
_HELPERS = {"act.py"}


def all_workloads() -> list[str]:
    """File names of all workload programs."""
    found = [path for path in WORKLOADS.iterdir() if path.suffix in (".c", ".py", ".sh")]
    return sorted(path.name for path in found if path.name not in _HELPERS)


def refused_workloads() -> dict[str, str]:
    """Programs with state that cannot be saved: the file name below ``tests/workloads``, and the
    reason code from its first line, or ``*`` where any will do."""
    return {
        f"refused/{path.name}": path.read_text().partition("\n")[0].partition("refused: ")[2]
        for path in sorted((WORKLOADS / "refused").glob("*.c"))
    }


@cache
def _binaries() -> tempfile.TemporaryDirectory[str]:
    directory = tempfile.TemporaryDirectory(prefix="w-bin-")
    Path(directory.name).chmod(0o755)
    return directory


@cache
def command_of(name: str) -> tuple[str, ...]:
    """The command that runs a workload; C programs are compiled at the first call.

    Raises:
        AssertionError: The compiler refused the program.
    """
    source = WORKLOADS / name
    if source.suffix == ".py":
        return sys.executable, str(source)
    if source.suffix == ".sh":
        return "/bin/bash", str(source)
    target = Path(_binaries().name) / source.stem
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-std=gnu11", "-O1", "-g", "-pthread", "-Wall", "-Wextra"]
    built = subprocess.run(
        ["gcc", *flags, "-I", str(WORKLOADS), "-o", str(target), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return (str(target),)


def changes_its_namespaces(name: str) -> bool:
    """Whether a workload would change the host if it ran outside of a container."""
    return "needs: container" in (WORKLOADS / name).read_text()[:500]


def run_plainly(name: str, control: Path) -> str:
    """Run a workload without any container; returns its result."""
    command = [*command_of(name), str(control)]
    if changes_its_namespaces(name):
        kinds = ("--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup")
        command = ["unshare", *kinds, "--fork", "--mount-proc", "--kill-child", *command]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        ready, result = control / "ready", control / "result"
        wait_until(lambda: ready.exists() or result.exists(), 60, "ready")
        (control / "go").touch()
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    return result.read_text().strip() if result.exists() else f"exited with {process.returncode}"


@dataclass
class Stage:
    """Containers that play one workload."""

    wherry: Wherry
    program: tuple[str, ...]
    control: Path
    privileged: bool = False
    alive: list[str] = field(default_factory=list)

    def start(self, cid: str) -> None:
        """Run the workload in a new container, until its state stands."""
        options = ["--privileged"] if self.privileged else []
        program = (*self.program, str(self.control))
        self.wherry("do", "--detach", *options, "--id", cid, "--", *program)
        self.alive.append(cid)
        wait_until(lambda: self._exists(cid, "ready") or self._exists(cid, "result"), 60, "ready")
        assert not self._exists(cid, "result"), f"before anything happened: {self._result(cid)}"

    def checkpoint(self, cid: str, image: Path, *, leave_running: bool) -> None:
        """Write the container's image; without *leave_running* it is gone afterwards."""
        options = ["--leave-running"] if leave_running else []
        self.wherry("checkpoint", "--image-path", image, *options, cid)
        if not leave_running:
            assert self.wherry.status(cid) == "stopped"
            self.delete(cid)

    def restore(self, cid: str, image: Path, *options: str) -> None:
        """Bring the image back under a new id."""
        self.wherry("restore", "--detach", *options, "--image-path", image, cid)
        self.alive.append(cid)
        assert self.wherry.status(cid) == "running"

    def finish(self, cid: str) -> str:
        """Let the workload check itself; returns what it found."""
        pid = json.loads(self.wherry("state", cid).stdout)["pid"]
        Path(f"/proc/{pid}/root{self.control}/go").touch()
        wait_until(
            lambda: self._exists(cid, "result") or self.wherry.status(cid) == "stopped",
            60,
            f"the result of {cid}",
        )
        result = self._result(cid)
        if result == "ok":
            wait_until(lambda: self.wherry.status(cid) == "stopped", 30, f"the end of {cid}")
            self.delete(cid)
        return result

    def delete(self, cid: str) -> None:
        """Delete a container that has ended."""
        self.wherry("delete", cid)
        self.alive.remove(cid)

    def _upper(self, cid: str, name: str) -> Path:
        upper = self.wherry.root / cid / "overlay" / "upper"
        return upper / self.control.relative_to("/") / name

    def _exists(self, cid: str, name: str) -> bool:
        return self._upper(cid, name).exists()

    def _result(self, cid: str) -> str:
        path = self._upper(cid, "result")
        return path.read_text().strip() if path.exists() else "ended without a result"


@contextmanager
def stage(wherry: Wherry, scratch: Path, name: str) -> Iterator[Stage]:
    """A place to play a workload; what is still alive at the end is deleted by force."""
    control = scratch / "c"
    control.mkdir()
    privileged = "needs: privileged" in (WORKLOADS / name).read_text()[:500]
    play = Stage(wherry, command_of(name), control, privileged)
    try:
        yield play
    finally:
        for cid in play.alive:
            wherry("delete", "--force", cid, check=False)
