"""``exec``: further processes in a running container."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.process import ProcessRef
from tests.support.bundles import bind, make_bundle
from tests.support.command import Wherry
from tests.support.wait import wait_until


@pytest.fixture
def web(wherry: Wherry, scratch: Path) -> Iterator[str]:
    bundle = make_bundle(scratch / "b", "exec sleep 1000", lambda s: bind(s, scratch, "/data"))
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "web")
    yield "web"
    wherry("delete", "--force", "web")


def test_exec_is_inside_and_returns_the_status(wherry: Wherry, web: str) -> None:
    result = wherry(
        "exec", web, "sh", "-c", "cat /proc/1/comm; cat; exit 9", stdin="in", check=False
    )
    assert (result.returncode, result.stdout) == (9, "sleep\nin")
    result = wherry("exec", web, "sh", "-c", "kill -KILL $$", check=False)
    assert result.returncode == 137


def test_exec_takes_environment_directory_user_and_capabilities(wherry: Wherry, web: str) -> None:
    script = "echo $COLOUR $PWD $(id -u) $(id -g) $(id -G); grep CapEff /proc/self/status"
    result = wherry(
        "exec", "--env", "COLOUR=blue", "--cwd", "/usr", "--user", "12:34", "-g", "56",
        web, "sh", "-c", script,
    )  # fmt: skip
    first, second = result.stdout.splitlines()
    assert first == "blue /usr 12 34 34 56"
    assert int(second.split()[1], 16) == 0
    plain = wherry("exec", web, "grep", "CapEff", "/proc/self/status").stdout
    more = wherry(
        "exec", "--cap", "CAP_SYS_TIME", web, "grep", "CapEff", "/proc/self/status"
    ).stdout
    assert int(more.split()[1], 16) == int(plain.split()[1], 16) | 1 << 25
    quiet = wherry("exec", "--no-new-privs", web, "grep", "NoNewPrivs", "/proc/self/status")
    assert quiet.stdout.split()[1] == "1"


def test_exec_takes_an_oci_process(wherry: Wherry, web: str, scratch: Path) -> None:
    process = {"args": ["sh", "-c", "echo $A $PWD"], "cwd": "/usr", "env": ["A=b", "PATH=/bin"]}
    (scratch / "process.json").write_text(json.dumps(process))
    assert wherry("exec", "--process", scratch / "process.json", web).stdout == "b /usr\n"
    (scratch / "process.json").write_text("nonsense")
    assert "not JSON" in wherry.fails("exec", "--process", scratch / "process.json", web).stderr


def test_a_detached_process_goes_on_and_can_be_waited_for(
    wherry: Wherry, web: str, scratch: Path
) -> None:
    script = "while [ ! -e /data/go ]; do sleep 0.02; done; exit 6"
    wherry("exec", "--detach", "--pid-file", scratch / "pid", web, "sh", "-c", script)
    ref = ProcessRef.of(int((scratch / "pid").read_text()))
    assert ref.alive()
    ns_pid = next(p["ns_pid"] for p in wherry.json("ps", "--json", web) if p["pid"] == ref.pid)
    (scratch / "go").touch()
    assert wherry("wait", "--pid", str(ns_pid), web, check=False).returncode == 6
    assert ref.wait_gone(10)
    # Late, and by somebody else.
    assert wherry("wait", "--pid", str(ns_pid), web, check=False).returncode == 6


def test_exec_hands_signals_on(wherry: Wherry, web: str, scratch: Path) -> None:
    script = "trap 'exit 17' USR1; touch /data/ready; while :; do sleep 0.02; done"
    process = wherry.popen("exec", web, "sh", "-c", script)
    wait_until((scratch / "ready").exists)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 17


def test_exec_says_what_is_missing(wherry: Wherry, web: str) -> None:
    result = wherry.fails("exec", web, "no-such-program")
    assert "no-such-program" in result.stderr
    assert "[exec-not-found]" in result.stderr
    assert wherry.fails("exec", web).returncode == 2
    assert wherry.fails("exec", "--user", "root", web, "true").returncode == 2


def test_a_killed_exec_leaves_its_process_running(wherry: Wherry, web: str, scratch: Path) -> None:
    process = wherry.popen("exec", web, "sh", "-c", "echo $$ > /data/pid; exec sleep 1000")
    wait_until(lambda: (scratch / "pid").exists() and (scratch / "pid").read_text() != "")
    process.kill()
    process.wait()
    commands = [line["command"] for line in wherry.json("ps", "--json", web)]
    assert commands == ["sleep 1000", "sleep 1000"]


def test_many_at_once(wherry: Wherry, web: str) -> None:
    processes = [wherry.popen("exec", web, "sh", "-c", f"exit {number}") for number in range(8)]
    assert [process.wait(60) for process in processes] == list(range(8))
    record = json.loads((wherry.root / web / "state.json").read_text())
    statuses = sorted(session["exit_status"] >> 8 for session in record["exec_sessions"])
    assert statuses == list(range(8))


def test_exec_sessions_end_with_the_container(wherry: Wherry, web: str) -> None:
    process = wherry.popen("exec", web, "sleep", "1000")
    wait_until(lambda: len(wherry.json("ps", "--format", "json", web)) == 2)
    wherry("kill", web, "KILL")
    assert process.wait(20) == 137
    assert wherry("wait", web, check=False).returncode == 137


def test_a_terminal_for_exec(wherry: Wherry, web: str) -> None:
    master, slave = os.openpty()
    process = wherry.popen(
        "exec", "--tty", web, "sh", "-c", "tty; read line; echo got $line",
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    seen = b""
    while b"/dev/pts/" not in seen:
        seen += os.read(master, 1000)
    os.write(master, b"abc\r")
    while b"got abc" not in seen:
        seen += os.read(master, 1000)
    assert process.wait(20) == 0
    os.close(master)
