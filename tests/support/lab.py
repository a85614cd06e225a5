"""The two hosts of ``scripts/lab`` as the tests use them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.wait import wait_until

LAB = Path(__file__).resolve().parents[2] / "scripts" / "lab"


@dataclass(frozen=True)
class Lab:
    """A lab that is up.

    Attributes:
        name: Its name.
        base: Directory that holds it.
    """

    name: str
    base: Path

    @property
    def environment(self) -> dict[str, str]:
        """For calls of the script."""
        return {**os.environ, "WHERRY_LAB_DIR": str(self.base)}

    def call(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the script itself."""
        return subprocess.run(
            [sys.executable, str(LAB), "--name", self.name, *args],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )

    def popen_script(self, *args: str) -> subprocess.Popen[bytes]:
        """Start the script itself."""
        return subprocess.Popen(
            [sys.executable, str(LAB), "--name", self.name, *args],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def home(self, host: str) -> Path:
        """Root's home directory on a host; the same path on the host and outside."""
        return self.base / self.name / host / "home"

    def path(self, host: str, path: str) -> Path:
        """An absolute path of a host as it is reached from outside."""
        pid = (self.base / self.name / host / "init.pid").read_text().split()[0]
        return Path(f"/proc/{pid}/root{path}")

    def popen(
        self, host: str, *args: str | Path, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command on a host; killing it kills the command there."""
        assignments = [f"{key}={value}" for key, value in (env or {}).items()]
        command = [sys.executable, str(LAB), "--name", self.name, "exec", host, "--"]
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(
            [*command, *(["env", *assignments] if assignments else []), *map(str, args)],
            env=self.environment,
            text=True,
            **options,
        )

    def run(
        self,
        host: str,
        *args: str | Path,
        check: bool = True,
        timeout: float = 90.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end.

        Output goes through files: what a detached container keeps open must not hold us.
        """
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self.popen(host, *args, env=env, stdout=out, stderr=err)
            try:
                code = process.wait(timeout)
            except BaseException:
                process.kill()
                process.wait()
                raise
            out.seek(0)
            err.seek(0)
            done = subprocess.CompletedProcess(args, code, out.read(), err.read())
        if check and code != 0:
            raise AssertionError(f"{host}: {args} exited with {code}: {done.stdout}{done.stderr}")
        return done

    def json(self, host: str, *args: str | Path, timeout: float = 90.0) -> Any:
        """Run a command on a host and parse its standard output."""
        return json.loads(self.run(host, *args, timeout=timeout).stdout)

    def containers(self, host: str) -> dict[str, str]:
        """Containers of a host by id, with their status."""
        listed = self.json(host, "wherry", "list", "--format", "json") or []
        return {entry["id"]: entry["status"] for entry in listed}

    def pids(self, host: str, needle: str) -> list[int]:
        """Pids, as the host sees them, of processes whose command line has *needle*."""
        lines = self.run(host, "ps", "-eo", "pid=,args=").stdout.splitlines()
        return [int(line.split()[0]) for line in lines if needle in line and "ps -eo" not in line]

    def kill(self, host: str, needle: str, signal: str = "KILL") -> int:
        """Kill processes of a host by command line; its pid namespace holds only our own."""
        pids = self.pids(host, needle)
        if pids:
            self.run(host, "kill", f"-{signal}", *map(str, pids), check=False)
        return len(pids)

    def hang_up(self, host: str) -> None:
        """Cut every SSH connection into a host, as a dying server process does."""
        wait_until(lambda: self.kill(host, "sshd: root@notty"), 10, "an SSH session to cut")


@contextlib.contextmanager
def lab_up(name: str) -> Iterator[Lab]:
    """A lab for the length of a ``with`` block, taken down whatever happens."""
    with tempfile.TemporaryDirectory(prefix="wlab-", ignore_cleanup_errors=True) as base:
        lab = Lab(name, Path(base))
        try:
            lab.call("up")
            yield lab
        finally:
            lab.call("down")
