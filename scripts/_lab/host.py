"""A host from the inside: its namespaces, what is mounted in them, and its init."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from .cgroups import cgroup_mounts, enter_cgroups, mount_cgroups
from .names import SCRIPT, Lab, run, start_time


def enter_host(lab: Lab, host: str, ready: int) -> NoReturn:
    """First life of a host's init: wait for the word, enter the cgroups and the namespaces."""
    if os.read(ready, 1) != b"g":
        raise SystemExit(1)
    os.close(ready)
    enter_cgroups(lab.label(host))
    os.execvp(
        "nsenter",
        [
            *("nsenter", f"--net=/run/netns/{lab.label(host)}"),
            *("unshare", "--mount", "--propagation", "private", "--uts", "--ipc", "--cgroup"),
            *("--pid", "--fork", "--kill-child"),
            *(sys.executable, "-I", str(SCRIPT), "--name", lab.name, "__init", host),
        ],
    )


def be_init(lab: Lab, host: str) -> None:
    """Second life: furnish the mount namespace, start sshd, reap whoever is left behind."""
    outer_pid = int(
        Path("/proc/self").readlink().name
    )  # this /proc still counts as the machine does
    lab.pid_file(host).write_text(f"{outer_pid} {start_time(outer_pid)}\n")
    socket.sethostname(host)
    furnish(lab, host)
    sshd = shutil.which("sshd") or "sshd"
    subprocess.Popen([sshd, "-D", "-e", "-f", str(lab.host_directory(host) / "sshd_config")])
    (lab.host_directory(host) / "up").touch()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.pause()


def furnish(lab: Lab, host: str) -> None:
    directory = lab.host_directory(host)
    cgroups = cgroup_mounts()
    links = {
        link: link.readlink() for link in Path("/sys/fs/cgroup").iterdir() if link.is_symlink()
    }
    run("mount", "-n", "-t", "proc", "-o", "nosuid,nodev,noexec", "proc", "/proc")
    make_run_directory(lab, directory)
    for name in ("hosts", "passwd", "shadow"):
        run("mount", "-n", "--bind", directory / name, Path("/etc") / name)
    run("umount", "--recursive", "--lazy", "/sys")
    run("mount", "-n", "-t", "sysfs", "-o", "nosuid,nodev,noexec", "sysfs", "/sys")
    mount_cgroups(cgroups, links)


def make_run_directory(lab: Lab, directory: Path) -> None:
    """A /run of the host's own, through which the lab's directory stays in sight."""
    new = directory / "run"
    new.mkdir()
    run("mount", "-n", "-t", "tmpfs", "-o", "mode=755", "tmpfs", new)
    (new / "sshd").mkdir(mode=0o755)
    (new / "lock").mkdir(mode=0o755)
    if lab.directory.is_relative_to("/run"):
        inside = new / lab.directory.relative_to("/run")
        inside.mkdir(parents=True)
        run("mount", "-n", "--bind", lab.directory, inside)
    run("mount", "-n", "--move", new, "/run")
