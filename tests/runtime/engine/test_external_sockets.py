"""Datagram sockets that are connected to a program outside: refused, or connected again if told."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.command import Wherry

PROGRAM = """
import signal, socket, sys
here = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
here.connect(chr(0) + sys.argv[1])
here.send(b"before")
signal.signal(signal.SIGUSR1, lambda *_: here.send(b"after"))
while True:
    signal.pause()
"""


@pytest.mark.timeout(300)
def test_a_datagram_socket_is_connected_again(wherry: Wherry, scratch: Path) -> None:
    image, name = scratch / "image", f"wherry-outside-{scratch.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outside:
        outside.bind(f"\0{name}")
        outside.settimeout(120)
        program = ("python3", "-c", PROGRAM, name)
        wherry("do", "--detach", "--network", "host", "--id", "box", "--", *program)
        assert outside.recv(100) == b"before"
        result = wherry.fails("checkpoint", "--image-path", image, "box")
        assert "[unix-outside]" in result.stderr
        assert "--ext-unix-sk" in result.stderr
        wherry("checkpoint", "--image-path", image, "--ext-unix-sk", "box")
        wherry("delete", "box")
        wherry("restore", "--detach", "--image-path", image, "box")
        wherry("kill", "box", "USR1")
        assert outside.recv(100) == b"after"
        wherry("delete", "--force", "box")
