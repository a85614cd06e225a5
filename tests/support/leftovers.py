"""The search for what a test left behind: processes, mounts, cgroups, namespaces, directories.

During a test everything of ours carries the test's own state root in its command line,
environment or mounts, so that the search finds only what this test made, however many test runs
share the machine. The whole run is compared once more at its end, by name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import WHERRY

_SETTLE_S = 5.0
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_NETNS = Path("/run/netns")


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that should be gone."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile, or belongs to the kernel
        return b""


def for_each_pid() -> Iterator[int]:
    """All process ids of this machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def describe(pid: int) -> str:
    """A process as a person recognizes it."""
    command = _read(Path(f"/proc/{pid}/cmdline")).replace(b"\0", b" ").decode(errors="replace")
    state = _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()
    return f"{pid} ({command.strip()[:160]}) state {state[0].decode() if state else 'gone'}"


def _parent(pid: int) -> int:
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def our_descendants() -> set[int]:
    """Processes below this one."""
    parents = {pid: _parent(pid) for pid in for_each_pid()}
    found: set[int] = set()
    frontier = {os.getpid()}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found |= frontier
    return found


def processes_of(base: Path) -> set[int]:
    """Processes whose command line, environment or root file system names *base*."""
    needle = os.fsencode(base)
    found = set()
    for pid in for_each_pid():
        own = any(needle in _read(Path(f"/proc/{pid}/{name}")) for name in ("cmdline", "environ"))
        if pid != os.getpid() and (own or needle in _root_mount(pid)):
            found.add(pid)
    return found


def _root_mount(pid: int) -> bytes:
    """The mountinfo line of what a process has at ``/``: a container's bundle or overlay."""
    for line in _read(Path(f"/proc/{pid}/mountinfo")).splitlines():
        if line.split()[4] == b"/":
            return line
    return b""


def mounts_of(needle: str) -> list[str]:
    """Mount points in our mount namespace that mention *needle*, innermost first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in reversed(lines) if needle in line]


def loop_devices_of(base: Path) -> list[str]:
    """Loop devices whose file is, or was, below *base*."""
    return [
        path.parts[3]
        for path in Path("/sys/block").glob("loop*/loop/backing_file")
        if os.fsencode(f"{base}/") in _read(path)
    ]


def cgroups() -> set[Path]:
    """All cgroup directories of this machine."""
    return {Path(path) for path, _, _ in os.walk(_CGROUP_ROOT)}


def still_there(seen: Mapping[Path, int]) -> set[Path]:
    """Those of the cgroups that exist, and are not another one of the same name."""
    return {path for path, inode in seen.items() if path.is_dir() and path.stat().st_ino == inode}


def network_namespaces() -> set[str]:
    """Named network namespaces."""
    return {entry.name for entry in _NETNS.iterdir()} if _NETNS.is_dir() else set()


def left_of_test(base: Path, seen: Mapping[Path, int], before: set[int]) -> list[Leftover]:
    """What is left of one test.

    Args:
        base: The test's directory, which everything of the test mentions.
        seen: Cgroups that its containers had, with their inodes.
        before: Our descendants when the test began.
    """
    root = base / "r"
    containers = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    found = [Leftover("container", name) for name in containers if not name.startswith(".")]
    pids = processes_of(base) | (our_descendants() - before)
    found += [Leftover("process", describe(pid)) for pid in sorted(pids)]
    found += [Leftover("mount", target) for target in mounts_of(str(base))]
    found += [Leftover("loop device", name) for name in loop_devices_of(base)]
    found += [Leftover("cgroup", str(path)) for path in sorted(still_there(seen))]
    return found


def settle(base: Path, seen: Mapping[Path, int], before: set[int]) -> list[Leftover]:
    """Like ``left_of_test``, after a short time in which what is ending may end."""
    deadline = time.monotonic() + _SETTLE_S
    while (found := left_of_test(base, seen, before)) and time.monotonic() < deadline:
        if any(item.kind == "container" for item in found):
            break
        time.sleep(0.02)
    return found


def destroy(
    base: Path, seen: Mapping[Path, int], before: set[int], environment: dict[str, str]
) -> None:
    """Remove what a test left: with the command first, then by hand."""
    root = base / "r"
    for name in sorted(path.name for path in root.iterdir()) if root.is_dir() else []:
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [str(WHERRY), "--root", str(root), "delete", "--force", name],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=20,
                check=False,
            )
    remove_cgroups(still_there(seen))
    for pid in processes_of(base) | (our_descendants() - before):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    for target in mounts_of(str(base)):
        subprocess.run(["umount", "-l", target], check=False, capture_output=True)
    remove_cgroups(still_there(seen))


def remove_cgroups(paths: Iterable[Path]) -> None:
    """Kill what lives in these cgroups and remove them, innermost first."""
    for path in sorted(paths, key=lambda path: len(path.parts), reverse=True):
        for thaw, value in (("cgroup.freeze", "0"), ("freezer.state", "THAWED")):
            if (path / thaw).exists():
                (path / thaw).write_text(value)
        for pid in map(int, _read(path / "cgroup.procs").split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _SETTLE_S
        while _read(path / "cgroup.procs") and time.monotonic() < deadline:
            time.sleep(0.01)
        with contextlib.suppress(OSError):
            path.rmdir()
