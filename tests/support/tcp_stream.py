"""A TCP connection that never rests: both ends send a known endless text and check what they hear.

Run as a program (``tcp_stream.py HOST PORT FOLDER``) it listens, and leaves in FOLDER "ready", how
far it got, and what went wrong. As a module it is the other end.
"""

from __future__ import annotations

import random
import select
import socket
import sys
import threading
import time
from pathlib import Path

_BLOCK = random.Random(20).randbytes(65521)
_TEXT = _BLOCK + _BLOCK
_PIECE = 16384


class Pump:
    """One end of the connection.

    Attributes:
        sent: Bytes so far.
        heard: Bytes so far, all of them right.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.setblocking(False)
        self.sent = 0
        self.heard = 0

    def step(self) -> None:
        """Send and receive something.

        Raises:
            OSError: The connection broke.
            ValueError: It has ended, or lost or repeated something.
        """
        readable, writable, _ = select.select([self._socket], [self._socket], [], 0.05)
        if readable:
            found = self._socket.recv(_PIECE)
            start = self.heard % len(_BLOCK)
            if not found:
                raise ValueError(f"the connection ended after {self.heard} bytes")
            if found != _TEXT[start : start + len(found)]:
                raise ValueError(f"not what was sent, somewhere behind byte {self.heard}")
            self.heard += len(found)
        if writable:
            start = self.sent % len(_BLOCK)
            self.sent += self._socket.send(_TEXT[start : start + _PIECE])
            time.sleep(0.002)  # there are others on this machine


class Peer:
    """The end outside, in a thread; `check` raises what went wrong there."""

    def __init__(self, sock: socket.socket) -> None:
        self._pump = Pump(sock)
        self._socket = sock
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._pump.step()
        except (OSError, ValueError) as exc:
            self._failure = exc

    @property
    def heard(self) -> int:
        """Bytes that came, all of them right."""
        return self._pump.heard

    def check(self) -> None:
        """Raise what has gone wrong so far."""
        if self._failure is not None:
            raise AssertionError(f"the end outside: {self._failure!r}")

    def close(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join()
        self._socket.close()


def main(host: str, port: str, folder: str) -> None:
    """The end inside."""
    here = Path(folder)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, int(port)), family=family)
    (here / "ready").touch()
    sock, _ = listener.accept()
    pump = Pump(sock)
    try:
        while True:
            pump.step()
            (here / "heard").write_text(str(pump.heard))
    except (OSError, ValueError) as exc:
        (here / "failure").write_text(repr(exc))


if __name__ == "__main__":
    main(*sys.argv[1:])
