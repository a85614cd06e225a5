"""``scripts/lab``: two hosts, and no trace of them afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leftovers
from tests.support.lab import Lab, lab_up
from tests.support.wait import wait_until


@pytest.fixture
def own_lab() -> Iterator[Lab]:
    """A lab that a test may break."""
    with lab_up(f"own-{os.getpid()}") as lab:
        yield lab


def _traces(lab: Lab) -> list[str]:
    found = [str(path) for path in leftovers.cgroups() if lab.name in str(path)]
    found += [name for name in leftovers.network_namespaces() if lab.name in name]
    found += leftovers.mounts_of(lab.name)
    found += [
        leftovers.describe(pid)
        for pid in leftovers.for_each_pid()
        if f"--name\0{lab.name}".encode() in _cmdline(pid)
    ]
    if (lab.base / lab.name).exists():
        found.append(str(lab.base / lab.name))
    return found


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _status(lab: Lab) -> dict[str, dict[str, object]]:
    hosts: dict[str, dict[str, object]] = json.loads(
        lab.call("status", "--json", check=False).stdout
    )["hosts"]
    return hosts


def test_hosts_are_two(lab: Lab) -> None:
    for host, other in (("a", "b"), ("b", "a")):
        assert lab.run(host, "hostname").stdout == f"{host}\n"
        assert lab.run(host, "ssh", other, "hostname").stdout == f"{other}\n"
    lab.run("a", "sh", "-c", "echo mine > /run/wherry-test; echo mine > ~/note")
    assert lab.run("b", "sh", "-c", "ls /run ~").stdout.count("note") == 0
    assert "wherry-test" not in lab.run("b", "ls", "/run").stdout
    lab.run("a", "rm", "/run/wherry-test")
    lab.run("b", "wherry", "check")


def test_passwords_are_refused(lab: Lab) -> None:
    options = ("-o", "BatchMode=yes", "-o", "PubkeyAuthentication=no")
    refused = lab.run("a", "ssh", *options, "b", "true", check=False)
    assert refused.returncode == 255
    assert "publickey" in refused.stderr


def test_exit_status_and_arguments_pass_through(lab: Lab) -> None:
    done = lab.run(
        "a", "sh", "-c", "printf '<%s>' \"$@\"; exit 7", "sh", "a b", "--name", check=False
    )
    assert (done.returncode, done.stdout) == (7, "<a b><--name>")


def test_a_killed_call_takes_its_command_along(lab: Lab) -> None:
    call = lab.popen("a", "sleep", "987")
    wait_until(lambda: lab.pids("a", "sleep 987"))
    call.kill()
    call.wait()
    wait_until(lambda: not lab.pids("a", "sleep 987"))


def test_down_leaves_no_trace(own_lab: Lab) -> None:
    # Worst case: busy, frozen and detached processes, nested cgroups, mounts.
    own_lab.run(
        "a",
        "sh",
        "-c",
        "mkdir -p /mnt; mount -t tmpfs x /mnt; setsid sleep 900 & "
        "for c in /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs; do"
        ' [ -e "$c" ] || continue; d=${c%/*}/x/y; mkdir -p "$d" || continue;'
        ' sleep 901 & echo $! > "$d/cgroup.procs" || true;'
        ' for f in cgroup.freeze freezer.state; do [ -e "$d/$f" ] || continue;'
        ' case $f in cgroup.freeze) echo 1 > "$d/$f";; *) echo FROZEN > "$d/$f";; esac; done; done',
    )
    assert _traces(own_lab)
    own_lab.call("down")
    wait_until(lambda: not _traces(own_lab), 5, f"the end of {_traces(own_lab)}")
    own_lab.call("down")  # again is no error


def test_a_dead_host_is_seen_and_made_anew(own_lab: Lab) -> None:
    pid = _status(own_lab)["a"]["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not _status(own_lab)["a"]["up"])
    assert own_lab.call("exec", "a", "--", "true", check=False).returncode == 1
    own_lab.call("up")
    assert all(host["up"] for host in _status(own_lab).values())


def test_a_half_built_lab_goes_away(own_lab: Lab) -> None:
    own_lab.call("down")
    for delay_ms in (30, 90, 150, 210, 270):
        process = own_lab.popen_script("up")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay_ms / 1000)
        process.kill()
        process.wait()
        own_lab.call("down")
        wait_until(lambda: not _traces(own_lab), 5, "no trace of a half-built lab")


def test_up_twice_changes_nothing(own_lab: Lab) -> None:
    before = _status(own_lab)
    own_lab.call("up")
    assert _status(own_lab) == before


@pytest.mark.parametrize("name", ["", "A", "../x", "x/y", "a" * 40])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    done = Lab(name, tmp_path).call("up", check=False)
    assert done.returncode != 0
    assert "must match" in done.stderr
