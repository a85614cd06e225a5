"""Options of create and run that other tools use."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.bundles import make_bundle
from tests.support.command import WHERRY, Wherry


def test_preserved_descriptors_reach_the_program(wherry: Wherry, scratch: Path) -> None:
    bundle = make_bundle(scratch / "b", "cat <&3; echo said >&4; [ ! -e /proc/self/fd/5 ]")
    script = f"exec {WHERRY} run --bundle {bundle} --overlay --preserve-fds 2 web"
    (scratch / "in").write_text("fed\n")
    done = subprocess.run(
        ["sh", "-c", f"{script} 3<{scratch}/in 4>{scratch}/out 5<{scratch}/in"],
        env=wherry.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "fed\n"), done.stderr
    assert (scratch / "out").read_text() == "said\n"
    result = wherry.fails("run", "--bundle", bundle, "--overlay", "--preserve-fds", "50", "web")
    assert "is not open" in result.stderr


def test_a_session_keyring_of_its_own_unless_told_otherwise(wherry: Wherry, scratch: Path) -> None:
    script = "import ctypes; print(ctypes.CDLL(None).syscall(250, 0, -3, 0))"
    bundle = make_bundle(scratch / "b", ["python3", "-c", script])
    host = "import ctypes, os; l = ctypes.CDLL(None); l.syscall(250, 1, 0);" + (
        "print(l.syscall(250, 0, -3, 0), flush=True); os.execv(os.environ['W'], os.sys.argv[1:])"
    )

    def serials(*options: str) -> list[str]:
        call = ["wherry", "run", *options, "--bundle", str(bundle), "--overlay", "web"]
        done = subprocess.run(
            ["python3", "-c", host, *call],
            env=wherry.environment({"W": str(WHERRY)}),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    outside, inside = serials("--no-new-keyring")
    assert inside == outside
    outside, inside = serials()
    assert inside != outside


def test_the_pid_file_appears_complete_and_last(wherry: Wherry, scratch: Path) -> None:
    pid_file = scratch / "pid"
    bundle = make_bundle(scratch / "b", "true")
    process = wherry.popen("create", "--bundle", bundle, "--overlay", "--pid-file", pid_file, "web")
    while not pid_file.exists():
        assert process.poll() is None or pid_file.exists()
        os.sched_yield()
    # Whoever sees it may start at once.
    assert int(pid_file.read_text()) == wherry.json("state", "web")["pid"]
    assert wherry.status("web") == "created"
    assert process.wait(20) == 0
    wherry("delete", "--force", "web")
