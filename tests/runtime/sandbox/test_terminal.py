"""Terminals: a pseudo-terminal of the container, its master over a console socket."""

from __future__ import annotations

import array
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import ContainerError
from runtime.sandbox.launch import Stdio, exec_process
from runtime.sandbox.terminal import connect_console
from tests.runtime.sandbox.box import Box, Boxes, Json


@pytest.fixture
def listener(scratch: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(scratch / "console"))
        sock.listen()
        yield sock


def _receive(listener: socket.socket) -> tuple[str, int]:
    peer, _ = listener.accept()
    with peer:
        message, ancillary, _, _ = peer.recvmsg(4096, socket.CMSG_SPACE(4))
    fds = array.array("i")
    for _, kind, data in ancillary:
        assert kind == socket.SCM_RIGHTS
        fds.frombytes(data)
    (master,) = fds
    return message.decode(), master


def _read_all(master: int) -> str:
    """Everything until the last process with the terminal has gone."""
    text = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:  # EIO: nobody has the slave any more
            return text.decode().replace("\r\n", "\n")
        if not data:
            return text.decode()
        text += data


def _with_terminal(raw: Json) -> None:
    raw["process"]["terminal"] = True
    raw["process"]["consoleSize"] = {"height": 33, "width": 111}


def _created(boxes: Boxes, listener: socket.socket, script: str) -> tuple[Box, int, str]:
    box = boxes.make(script, _with_terminal)
    console = connect_console(listener.getsockname())
    try:
        box.create(console=console)
    finally:
        os.close(console)
    name, master = _receive(listener)
    return box, master, name


def test_terminal(boxes: Boxes, listener: socket.socket) -> None:
    box, master, name = _created(
        boxes,
        listener,
        "tty; stty size; readlink /proc/self/fd/0; stat -c '%F %u %g' $(tty); "
        "stat -c '%t' /dev/console; grep -o '/dev/console [a-z,]*' /proc/self/mountinfo; "
        "echo > /dev/tty && echo controlling; ps -o tpgid= -p $$",
    )
    box.start()
    lines = _read_all(master).splitlines()
    os.close(master)
    assert box.wait().status == 0
    assert name == "/dev/pts/0"
    assert lines[:4] == ["/dev/pts/0", "33 111", "/dev/pts/0", "character special file 0 5"]
    assert lines[4] == "88"  # major 136
    assert "controlling" in lines
    assert int(lines[-1]) > 0


def test_terminal_takes_input_and_signals(boxes: Boxes, listener: socket.socket) -> None:
    box, master, _ = _created(
        boxes, listener, "trap 'exit 9' INT; read x; echo got $x; while :; do sleep 0.05; done"
    )
    box.start()
    os.write(master, b"word\n")
    seen = b""
    while b"got word" not in seen:
        seen += os.read(master, 4096)
    os.write(master, b"\x03")  # the terminal's own way to say SIGINT
    assert box.wait().status == 9
    os.close(master)


def test_no_console_socket_is_refused(boxes: Boxes) -> None:
    with pytest.raises(ContainerError, match=r"process.terminal: needs a console socket"):
        boxes.make("true", _with_terminal).create()


def test_no_devpts_is_refused(boxes: Boxes, listener: socket.socket) -> None:
    def change(raw: Json) -> None:
        _with_terminal(raw)
        raw["mounts"] = [entry for entry in raw["mounts"] if entry["type"] != "devpts"]

    box = boxes.make("true", change)
    console = connect_console(listener.getsockname())
    with pytest.raises(ContainerError, match=r"needs a mount of type devpts"):
        box.create(console=console)
    os.close(console)


def test_nobody_listens(scratch: Path) -> None:
    with pytest.raises(ContainerError, match=r"cannot connect to the console socket .*: no such"):
        connect_console(scratch / "nobody")


def test_exec_with_a_terminal(boxes: Boxes, listener: socket.socket) -> None:
    box = boxes.make("exec sleep 1000")
    box.create()
    box.start()
    console = connect_console(listener.getsockname())
    null = os.open("/dev/null", os.O_RDWR)
    process = {
        "args": ["sh", "-c", "tty; stty size"],
        "cwd": "/",
        "env": ["PATH=/usr/bin:/bin"],
        "terminal": True,
        "consoleSize": {"height": 12, "width": 34},
    }
    pid = exec_process(
        box.running.pid,
        process,
        spec=box.spec,
        cgroups=box.cgroups,
        stdio=Stdio(null, null, null),
        console=console,
    )
    os.close(null)
    os.close(console)
    name, master = _receive(listener)
    select.select([master], [], [], 10)
    lines = _read_all(master).splitlines()
    os.close(master)
    assert os.waitpid(pid, 0)[1] == 0
    assert lines == [name, "12 34"]
