"""What a lab is called, and the little that all its parts need."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HOSTS = ("a", "b")
ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2"}
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
BASE = Path(os.environ.get("WHERRY_LAB_DIR", "/run/wherry-lab"))
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "lab"
TOOLS = {  # what a lab calls, and the Debian or Ubuntu package that has it
    "ip": "iproute2",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "setpriv": "util-linux",
}
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class LabError(Exception):
    """A failure the person at the terminal can act on."""


@dataclass(frozen=True)
class Lab:
    """The names of everything a lab consists of; computed, never looked up."""

    name: str

    @property
    def directory(self) -> Path:
        return BASE / self.name

    @property
    def keys(self) -> Path:
        return self.directory / "ssh"

    def host_directory(self, host: str) -> Path:
        return self.directory / host

    def label(self, host: str) -> str:
        """Name of a host's network namespace and of its cgroups: wherry-a, wherry-NAME-a."""
        return f"wherry-{host}" if self.name == "default" else f"wherry-{self.name}-{host}"

    def pid_file(self, host: str) -> Path:
        return self.host_directory(host) / "init.pid"


def start_time(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat; with the pid it names one process for ever."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def host_init(lab: Lab, host: str) -> int | None:
    """Pid of a host's init, or None when the host is not up."""
    try:
        pid, started = lab.pid_file(host).read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if start_time(int(pid)) == started else None


def run(*command: str | Path) -> str:
    """Run a tool; its own words are the error's words."""
    try:
        done = subprocess.run(
            [str(word) for word in command], check=False, capture_output=True, text=True
        )
    except FileNotFoundError:
        tool = str(command[0])
        raise LabError(f"this machine lacks {tool} (apt package {TOOLS.get(tool, tool)})") from None
    if done.returncode:
        words = " ".join(str(word) for word in command)
        raise LabError(f"{words}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(0.01)


def netns_exists(lab: Lab, host: str) -> bool:
    return Path(f"/run/netns/{lab.label(host)}").exists()
