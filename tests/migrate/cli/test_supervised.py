"""A supervisor that is a child subreaper, as conmon and the containerd shim are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from runtime.process import ProcessRef, parent_pid
from tests.support.bundles import make_bundle
from tests.support.command import WHERRY, Wherry
from tests.support.wait import wait_until

# Creates and starts a container, reaps its init itself, and notes the status.
_SUPERVISOR = """
    import json, os, subprocess, sys
    from pathlib import Path
    from runtime.kernel import prctl

    wherry, bundle, base = sys.argv[1:]
    prctl.set_child_subreaper(True)
    pid_file = Path(base) / "pid"
    subprocess.run(
        [wherry, "create", "--bundle", bundle, "--overlay", "--pid-file", pid_file, "web"],
        check=True,
    )
    subprocess.run([wherry, "start", "web"], check=True)
    pid = int(pid_file.read_text())
    (Path(base) / "started").touch()
    _, status = os.waitpid(pid, 0)
    (Path(base) / "status").write_text(str(os.waitstatus_to_exitcode(status)))
"""


def supervise(wherry: Wherry, scratch: Path, bundle: Path) -> subprocess.Popen[bytes]:
    code = textwrap.dedent(_SUPERVISOR)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(WHERRY), str(bundle), str(scratch)],
        env=wherry.environment(),
    )
    wait_until(lambda: (scratch / "started").exists() or process.poll() is not None)
    return process


def test_the_supervisor_reaps_the_init_and_there_is_no_monitor(
    wherry: Wherry, scratch: Path
) -> None:
    bundle = make_bundle(scratch / "b", "trap 'exit 12' TERM; while :; do sleep 0.02; done")
    supervisor = supervise(wherry, scratch, bundle)
    record = json.loads((wherry.root / "web" / "state.json").read_text())
    assert record["monitor"] is None
    assert parent_pid(record["init"]["pid"]) == supervisor.pid
    assert wherry.status("web") == "running"
    assert wherry("exec", "web", "sh", "-c", "exit 4", check=False).returncode == 4
    waiting = wherry.popen("wait", "web")
    wait_until(lambda: "pidfd" in _descriptors(waiting.pid))
    wherry("kill", "web")
    assert supervisor.wait(20) == 0
    assert (scratch / "status").read_text() == "12"
    # The kernel tells a status to whoever held a pidfd, also when another process reaped.
    assert waiting.wait(20) == 12
    assert wherry("wait", "web", check=False).returncode == 12
    wherry("delete", "web")


def _descriptors(pid: int) -> str:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
        return " ".join(os.readlink(f"/proc/{pid}/fd/{name}") for name in names)
    except FileNotFoundError:
        return ""


def test_pause_resume_and_force_work_without_a_monitor(wherry: Wherry, scratch: Path) -> None:
    bundle = make_bundle(scratch / "b", "exec sleep 1000")
    supervisor = supervise(wherry, scratch, bundle)
    wherry("pause", "web")
    wherry("resume", "web")
    wherry("delete", "--force", "web")
    assert supervisor.wait(20) == 0
    assert (scratch / "status").read_text() == "-9"


def test_a_pid_file_alone_does_not_take_the_monitor_away(wherry: Wherry, scratch: Path) -> None:
    bundle = make_bundle(scratch / "b", "exit 3")
    wherry("create", "--bundle", bundle, "--overlay", "--pid-file", scratch / "pid", "web")
    wherry("start", "web")
    assert wherry("wait", "web", check=False).returncode == 3
    wherry("delete", "web")


def test_no_monitor_when_asked_for(wherry: Wherry, scratch: Path) -> None:
    bundle = make_bundle(scratch / "b", "exec sleep 1000")
    wherry("create", "--no-monitor", "--bundle", bundle, "--overlay", "web")
    record = json.loads((wherry.root / "web" / "state.json").read_text())
    assert record["monitor"] is None
    init = ProcessRef.of(record["init"]["pid"])
    wherry("start", "web")
    os.kill(init.pid, signal.SIGKILL)
    assert init.wait_gone(10)
    assert wherry.status("web") == "stopped"
    wherry("delete", "web")
