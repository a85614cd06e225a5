"""Containers with a terminal: their console is outside, and a restore gives them another one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from tests.support.bundles import make_bundle
from tests.support.command import WHERRY, Wherry
from tests.support.terminal import Screen, Terminal, console_socket, received
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(120)

SHELL = ("bash", "--norc", "--noprofile", "--noediting", "-i")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


@pytest.fixture
def elsewhere() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def start(wherry: Wherry, terminal: Terminal, *args: str | Path) -> Popen[bytes]:
    """A command of ours that relays between a terminal of this host and one inside."""
    fd = terminal.slave
    process = wherry.popen(*args, stdin=fd, stdout=fd, stderr=fd, start_new_session=True)
    wait_until(lambda: terminal.taken_over, what="the relay")
    return process


def test_a_shell_with_jobs_moves_to_another_terminal(
    wherry: Wherry, terminal: Terminal, elsewhere: Terminal, scratch: Path
) -> None:
    first = start(wherry, terminal, "do", "--tty", "--id", "a", "--", *SHELL)
    terminal.type("PS1='%\\n'; stty -echo; sleep 1000 &\n")
    terminal.expect("[1]")
    terminal.type("sh -c 'echo going-$((1 + 1)); exec cat'\n")
    terminal.expect("going-2")
    terminal.type("\x1a")
    terminal.expect("[2]+  Stopped")
    terminal.type("tty; echo $((6 * 7))\n")
    terminal.expect("42")
    wherry("checkpoint", "--image-path", scratch / "image", "a")
    assert first.wait(20) != 0
    elsewhere.resize(34, 78)
    second = start(wherry, elsewhere, "restore", "--image-path", scratch / "image", "b")
    elsewhere.type("jobs; stty size; stty -a | grep -o -- '-echo '; tty\n")
    elsewhere.expect("Running                 sleep 1000 &")
    elsewhere.expect("34 78")
    elsewhere.expect("-echo")
    elsewhere.expect("/dev/pts/0")
    elsewhere.type("fg\n")
    elsewhere.expect("exec cat")
    elsewhere.type("purr\n")
    elsewhere.expect("purr")
    elsewhere.type("\x03")
    elsewhere.expect("%")
    elsewhere.type("kill %1; wait; exit 7\n")
    assert second.wait(20) == 7


def shell_in_bundle(wherry: Wherry, scratch: Path, path: Path) -> Screen:
    """Run a detached container whose shell has a terminal."""
    bundle = make_bundle(
        scratch / "b", f"exec {' '.join(SHELL)}", lambda spec: spec["process"].update(terminal=True)
    )
    with console_socket(path) as listener:
        wherry("run", "--detach", "--bundle", bundle, "--overlay", "--console-socket", path, "a")
        return received(listener)


def test_a_console_socket_gets_the_new_terminal(wherry: Wherry, scratch: Path) -> None:
    path = scratch / "console"
    screen = shell_in_bundle(wherry, scratch, path)
    screen.type("PS1='%\\n'; stty -icanon rows 11 columns 22; echo $$\n")
    screen.expect("\n1\r")
    wherry("checkpoint", "--leave-running", "--image-path", scratch / "image", "a")
    screen.type("echo still-$((1 + 1))\n")
    screen.expect("still-2")
    wherry("delete", "--force", "a")
    os.close(screen.master)
    with console_socket(path) as listener:
        image = ("--image-path", scratch / "image")
        wherry("restore", "--detach", *image, "--console-socket", path, "b")
        screen = received(listener)
    screen.type("stty -a | grep -e rows -e icanon; ps -o tpgid= -o pgid= -p $$; cat\n")
    screen.expect("rows 11; columns 22")
    screen.expect("-icanon")
    screen.expect(" 1\r\n")
    screen.type("echoed\n")
    screen.expect("echoed^Jechoed")
    screen.type("\x1a")
    screen.expect("Stopped")
    # Hanging up ends the shell, as ever.
    os.close(screen.master)
    wherry("wait", "b", check=False)
    wherry("delete", "b")


def test_a_detached_restore_needs_a_receiver(wherry: Wherry, scratch: Path) -> None:
    screen = shell_in_bundle(wherry, scratch, scratch / "console")
    wherry("checkpoint", "--image-path", scratch / "image", "a")
    wherry("delete", "a")
    os.close(screen.master)
    result = wherry.fails("restore", "--detach", "--image-path", scratch / "image", "b")
    assert "--console-socket" in result.stderr
    assert wherry.status("b") == "absent"


def test_a_daemon_keeps_the_console_without_a_descriptor(
    wherry: Wherry, terminal: Terminal, elsewhere: Terminal, scratch: Path
) -> None:
    script = f"""
        exec <&- >&- 2>&-
        touch {scratch}/ready
        until test -e {scratch}/go; do sleep 0.02; done
        read line </dev/tty
        echo got-$line >{scratch}/got
    """
    first = start(wherry, terminal, "do", "--tty", "--id", "a", "--", "bash", "-c", script)
    upper = wherry.root / "a" / "overlay" / "upper"
    wait_until((upper / scratch.relative_to("/") / "ready").exists)
    wherry("checkpoint", "--image-path", scratch / "image", "a")
    first.wait(20)
    second = start(wherry, elsewhere, "restore", "--keep", "--image-path", scratch / "image", "b")
    pid = json.loads(wherry("state", "b").stdout)["pid"]
    Path(f"/proc/{pid}/root{scratch}/go").touch()
    elsewhere.type("this\n")
    got = wherry.root / "b" / "overlay" / "upper" / scratch.relative_to("/") / "got"
    assert second.wait(20) == 0
    assert got.read_text() == "got-this\n"
    wherry("delete", "b")


def test_a_terminal_from_outside_is_refused_and_given_anew(
    wherry: Wherry, terminal: Terminal, elsewhere: Terminal, scratch: Path
) -> None:
    """Its standard streams are terminals of the host's, and one more descriptor is."""
    bundle = make_bundle(scratch / "b", "stty -echo; while read line; do echo got $line >&3; done")
    run = ("run", "--bundle", bundle, "--overlay", "--preserve-fds", "1", "a")
    first = Popen(
        ["bash", "-c", 'exec "$@" 3<>"$0"', os.ttyname(elsewhere.slave), WHERRY, *run],
        env=wherry.environment(),
        stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave,
        start_new_session=True,
    )  # fmt: skip
    terminal.type("one\n")
    elsewhere.expect("got one")
    result = wherry.fails("checkpoint", "--image-path", scratch / "image", "a")
    assert re.search(r"fd 3 .*--shell-job.*\[tty-outside\]", result.stderr), result.stderr
    terminal.type("two\n")
    elsewhere.expect("got two")
    wherry("checkpoint", "--shell-job", "--image-path", scratch / "image", "a")
    first.wait(20)
    third = Terminal()
    second = wherry.popen(
        "restore", "--shell-job", "--image-path", scratch / "image", "b",
        stdin=third.slave, stdout=third.slave, stderr=third.slave, start_new_session=True,
    )  # fmt: skip
    third.type("three\n")
    third.expect("got three")
    third.type("\x04")
    assert second.wait(20) == 0
    third.close()
