"""Terminals: our own relay, and the console socket of other tools."""

from __future__ import annotations

import os
import signal
import socket
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import make_bundle
from tests.support.command import Wherry
from tests.support.terminal import Terminal
from tests.support.wait import wait_until


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def test_do_on_a_terminal(wherry: Wherry, terminal: Terminal) -> None:
    terminal.resize(33, 77)
    before = termios.tcgetattr(terminal.slave)
    process = wherry.popen(
        "do", "--id", "web", "--",
        "sh", "-c", "stty size; trap 'stty size; exit 5' WINCH; tty; while :; do sleep 0.02; done",
        stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave,
        start_new_session=True,
    )  # fmt: skip
    terminal.wait_for("33 77")
    terminal.wait_for("/dev/pts/0")
    terminal.resize(44, 88)
    process.send_signal(signal.SIGWINCH)
    terminal.wait_for("44 88")
    assert process.wait(20) == 5
    assert termios.tcgetattr(terminal.slave) == before
    assert wherry.status("web") == "absent"


def test_control_c_goes_through_the_terminal_inside(wherry: Wherry, terminal: Terminal) -> None:
    process = wherry.popen(
        "do", "--id", "web", "--", "sh", "-c",
        "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.02; done",
        stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave,
        start_new_session=True,
    )  # fmt: skip
    terminal.wait_for("ready")
    terminal.type("\x03")
    terminal.wait_for("caught")
    assert process.wait(20) == 3


def test_a_terminal_without_one_on_our_side(wherry: Wherry) -> None:
    result = wherry("do", "--tty", "--", "sh", "-c", "tty; cat", stdin="fed\n")
    assert "/dev/pts/0" in result.stdout
    assert "fed" in result.stdout


def test_all_output_arrives_although_the_program_ends_at_once(wherry: Wherry) -> None:
    result = wherry("do", "--tty", "--", "sh", "-c", "seq 1 20000")
    assert result.stdout.split()[-1] == "20000"
    assert len(result.stdout.split()) == 20000


def test_a_console_socket_receives_the_terminal(wherry: Wherry, scratch: Path) -> None:
    bundle = make_bundle(
        scratch / "b", "read line; echo got $line; sleep 1000",
        lambda spec: spec["process"].update(terminal=True),
    )  # fmt: skip
    path = scratch / "console.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        wherry("run", "--detach", "--bundle", bundle, "--overlay", "--console-socket", path, "web")
        connection, _ = listener.accept()
    with connection:
        _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
    (master,) = fds
    os.write(master, b"abc\n")
    seen = b""
    while b"got abc" not in seen:
        seen += os.read(master, 4096)
    wherry("delete", "--force", "web")
    os.close(master)


@pytest.mark.parametrize("verb", ["create", "run"])
def test_a_terminal_needs_a_receiver(wherry: Wherry, scratch: Path, verb: str) -> None:
    bundle = make_bundle(scratch / "b", "true", lambda spec: spec["process"].update(terminal=True))
    options = ["--detach"] if verb == "run" else []
    result = wherry.fails(verb, *options, "--bundle", bundle, "--overlay", "web")
    assert "--console-socket" in result.stderr
    assert list(wherry.root.iterdir()) == []


def test_a_receiver_needs_a_terminal_and_has_to_listen(wherry: Wherry, scratch: Path) -> None:
    bundle = make_bundle(scratch / "b", "true")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(scratch / "c"))
        listener.listen()
        result = wherry.fails(
            "create", "--bundle", bundle, "--overlay", "--console-socket", scratch / "c", "web"
        )
    assert "process.terminal is false" in result.stderr
    result = wherry.fails(
        "create", "--bundle", bundle, "--overlay", "--console-socket", scratch / "nobody", "web"
    )
    assert "nobody" in result.stderr


def test_a_hanging_up_terminal_does_not_end_what_goes_on(wherry: Wherry, scratch: Path) -> None:
    terminal = Terminal()
    process = wherry.popen(
        "do", "--id", "web", "--", "sh", "-c", "trap '' HUP; echo ready; exec sleep 1000",
        stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave,
        start_new_session=True,
    )  # fmt: skip
    terminal.wait_for("ready")
    terminal.close()
    process.kill()
    process.wait()
    wait_until(lambda: wherry.status("web") == "running")
    wherry("delete", "--force", "web")
