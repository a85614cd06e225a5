"""Putting a lab up and taking it down."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .bridges import remove_bridges
from .cgroups import (
    cgroup_pids,
    make_cgroups,
    remove_cgroups,
    thaw_cgroups,
)
from .files import write_host_files, write_keys
from .names import (
    ADDRESSES,
    BASE,
    HOSTS,
    SCRIPT,
    TOOLS,
    Lab,
    LabError,
    host_init,
    netns_exists,
    run,
    start_time,
    wait_until,
)

START_TIMEOUT_S = 20.0


def up(lab: Lab, path: str) -> None:
    require_machine()
    with locked():
        if lab.directory.exists() and all(answers(lab, host) for host in HOSTS):
            return
        tear_down(lab)
        try:
            lab.directory.mkdir(mode=0o755)
            for host in HOSTS:
                lab.host_directory(host).mkdir(mode=0o755)
            write_keys(lab)
            make_network(lab)
            (lab.directory / "path").write_text(path)
            for host in HOSTS:
                write_host_files(lab, host, path)
                make_cgroups(lab.label(host))
                start_host(lab, host)
        except BaseException:
            tear_down(lab)
            raise


def down(lab: Lab) -> None:
    if os.geteuid() != 0:
        raise LabError(f"taking a lab down needs root; try: sudo {sys.argv[0]}")
    if not BASE.exists() and not any(netns_exists(lab, host) for host in HOSTS):
        return
    with locked():
        tear_down(lab)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One command at a time; the lock is the directory itself and leaves nothing behind."""
    while True:
        BASE.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(BASE, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == BASE.stat().st_ino:
                break
        os.close(descriptor)  # whoever held it before us removed the directory
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # other labs are still there
            BASE.rmdir()
        os.close(descriptor)


def require_machine() -> None:
    if os.geteuid() != 0:
        raise LabError(f"a lab makes namespaces and needs root; try: sudo {sys.argv[0]}")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        packages = sorted({TOOLS[tool] for tool in missing})
        raise LabError(
            f"this machine lacks {', '.join(missing)}; install with: "
            f"apt-get install {' '.join(packages)}"
        )


def make_network(lab: Lab) -> None:
    for host in HOSTS:
        run("ip", "netns", "add", lab.label(host))
    names = [lab.label(host) for host in HOSTS]
    # Both ends are born inside: nothing of a lab ever appears among the machine's own links.
    run(
        *("ip", "link", "add", "eth0", "netns", names[0]),
        *("type", "veth", "peer", "name", "eth0", "netns", names[1]),
    )
    for host in HOSTS:
        inside = ("ip", "-n", lab.label(host))
        run(*inside, "address", "add", f"{ADDRESSES[host]}/24", "dev", "eth0")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "set", "eth0", "up")


def start_host(lab: Lab, host: str) -> None:
    """Start a host's init; it has been recorded before it does anything that must be undone."""
    directory = lab.host_directory(host)
    ready, go = os.pipe()
    log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    command = [sys.executable, "-I", str(SCRIPT), "--name", lab.name, "__enter", host, str(ready)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=(ready,),
        start_new_session=True,
        env={**os.environ, "WHERRY_LAB_DIR": str(BASE)},
    )
    os.close(ready)
    os.close(log)
    # The child does nothing until it reads this byte, and ends when the pipe closes without one.
    (directory / "outer.pid").write_text(f"{child.pid} {start_time(child.pid)}\n")
    os.write(go, b"g")
    os.close(go)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers(lab, host):
        if child.poll() is not None or time.monotonic() > deadline:
            tail = (directory / "log").read_text(errors="replace").strip().splitlines()[-3:]
            raise LabError(
                f"host {host} did not come up: {'; '.join(tail) or 'no word in its log'}"
            )
        time.sleep(0.02)


def answers(lab: Lab, host: str) -> bool:
    """Whether a host's sshd listens, read from its own network namespace."""
    pid = host_init(lab, host)
    if pid is None or not (lab.host_directory(host) / "up").exists():
        return False
    try:
        table = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return False
    wanted = socket.inet_aton(ADDRESSES[host])[::-1].hex().upper() + ":0016"
    return any(line.split()[1] == wanted and line.split()[3] == "0A" for line in table)


def tear_down(lab: Lab) -> None:
    """Remove whatever of the lab exists; every step looks for itself."""
    remove_bridges(lab)
    for host in HOSTS:
        kill_host(lab, host)
        remove_cgroups(lab.label(host))
        if netns_exists(lab, host):
            run("ip", "netns", "delete", lab.label(host))
    if lab.directory.exists():
        shutil.rmtree(lab.directory)


def kill_host(lab: Lab, host: str) -> None:
    """Kill a host's init, and with it the whole pid namespace; then who came in from outside."""
    label = lab.label(host)
    outer = lab.host_directory(host) / "outer.pid"
    with contextlib.suppress(OSError, ValueError):
        pid, started = outer.read_text().split()
        if start_time(int(pid)) == started:
            os.kill(int(pid), signal.SIGKILL)

    def gone() -> bool:
        init = host_init(lab, host)
        pids = cgroup_pids(label) | ({init} if init else set())
        pids.discard(os.getpid())
        thaw_cgroups(label)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_until(gone, 20.0, f"the end of host {host}")
