"""The ``wherry`` command as the tests call it: a real process with its own state root."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WHERRY = Path(sys.executable).parent / "wherry"


@dataclass(frozen=True, slots=True)
class Result:
    """How one call of the command ended."""

    args: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


class CommandFailedError(AssertionError):
    """A call that had to succeed did not; shows everything it said."""

    def __init__(self, result: Result) -> None:
        super().__init__(
            f"wherry {' '.join(result.args)} exited with {result.returncode}\n"
            f"stdout: {result.stdout}\nstderr: {result.stderr}"
        )
        self.result = result


@dataclass
class Wherry:
    """Calls the command with one state root, and remembers the cgroups of its containers.

    Output goes to files and not to pipes: a detached container keeps the descriptors, and the
    reader of a pipe would wait for its end.
    """

    root: Path
    scratch: Path
    env: dict[str, str] = field(default_factory=dict)
    seen_cgroups: dict[Path, int] = field(default_factory=dict)  # with their inodes
    _calls: itertools.count[int] = field(default_factory=itertools.count)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a call: ours, with the state root and readable crashes."""
        own = {"WHERRY_ROOT": str(self.root), "PYTHONFAULTHANDLER": "1"}
        return {**os.environ, **own, **self.env, **(extra or {})}

    def popen(
        self, *args: str | Path, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a call and return at once; *options* are those of ``subprocess.Popen``."""
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(
            [str(WHERRY), *map(str, args)], env=self.environment(env), **options
        )

    def __call__(
        self,
        *args: str | Path,
        check: bool = True,
        timeout: float = 60.0,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run one call to its end.

        Args:
            *args: The command's arguments.
            check: Whether a non-zero exit is an error of the test.
            timeout: Seconds; then the call is aborted and its Python stack is in the message.
            stdin: Text for its standard input.
            env: Additional environment.

        Raises:
            CommandFailedError: It exited with another status than 0, and *check* is set.
            AssertionError: It did not end in time.
        """
        number = next(self._calls)
        paths = [self.scratch / f"{number}.{name}" for name in ("in", "out", "err")]
        paths[0].write_text(stdin or "")
        with paths[0].open("rb") as source, paths[1].open("wb") as out, paths[2].open("wb") as err:
            process = self.popen(*args, env=env, stdin=source, stdout=out, stderr=err)
            timed_out = self._wait(process, timeout)
        self.note_cgroups()
        texts = [path.read_text(errors="replace") for path in paths[1:]]
        result = Result(tuple(map(str, args)), process.returncode, texts[0], texts[1])
        if timed_out:
            raise AssertionError(f"timed out after {timeout:g} s: {CommandFailedError(result)}")
        if check and result.returncode != 0:
            raise CommandFailedError(result)
        return result

    def json(self, *args: str | Path, timeout: float = 60.0) -> Any:
        """Run one call and parse its standard output."""
        return json.loads(self(*args, timeout=timeout).stdout)

    def status(self, cid: str) -> str:
        """The status of a container, or ``"absent"`` when there is none of that id."""
        result = self("state", cid, check=False)
        if result.returncode != 0:
            return "absent"
        return str(json.loads(result.stdout)["status"])

    def peek(self, cid: str, path: str) -> str:
        """A file of a running container, seen from outside; empty while there is none.

        Starts no process: cheap enough to be asked again and again.
        """
        try:
            state = json.loads((self.root / cid / "state.json").read_text())
            return Path(f"/proc/{state['init']['pid']}/root{path}").read_text()
        except (OSError, ValueError, KeyError, TypeError):
            return ""  # being made, restored or ended

    def fails(self, *args: str | Path, timeout: float = 60.0) -> Result:
        """Run one call that has to fail the way a user should see it: one line, no traceback."""
        result = self(*args, check=False, timeout=timeout)
        assert result.returncode != 0, f"{result.args} succeeded: {result.stdout}"
        lines = result.stderr.strip().splitlines()
        assert lines, f"{result.args} failed with {result.returncode} without a word"
        assert "Traceback" not in result.stderr, result.stderr
        return result

    def _wait(self, process: subprocess.Popen[bytes], timeout: float) -> bool:
        """Wait for the end; returns whether it had to be forced."""
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler prints the stack
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return True
        except BaseException:
            process.kill()
            process.wait()
            raise
        return False

    def note_cgroups(self) -> None:
        """Remember which cgroups the containers have now; called after each call."""
        for state in self.root.glob("*/state.json"):
            try:
                cgroups = json.loads(state.read_text()).get("cgroups") or {}
            except (OSError, ValueError):
                continue  # being deleted, or damaged on purpose
            for path in map(
                Path, filter(None, [*cgroups.get("v1", {}).values(), cgroups.get("v2")])
            ):
                if path.is_dir():
                    self.seen_cgroups[path] = path.stat().st_ino


def words(*parts: str | Path | Sequence[str | Path]) -> list[str]:
    """Flatten arguments and lists of arguments into strings."""
    flat: list[str] = []
    for part in parts:
        flat.extend([str(part)] if isinstance(part, str | Path) else map(str, part))
    return flat
