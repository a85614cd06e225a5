"""Pseudo-terminals with somebody sitting at them."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Screen:
    """What a terminal's user sees and types, at the master."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.seen = b""

    def type(self, text: str) -> None:
        """Type, without waiting for anything."""
        os.write(self.master, text.encode())

    def wait_for(self, text: str, timeout: float = 20) -> None:
        """Read until *text* has appeared.

        Raises:
            AssertionError: It did not in *timeout* seconds.
        """
        deadline = time.monotonic() + timeout
        while text.encode() not in self.seen:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.master], [], [], max(left, 0))
            assert ready, f"waited in vain for {text!r}, saw {self.seen!r}"
            self.seen += os.read(self.master, 4096)

    def expect(self, text: str, timeout: float = 20) -> None:
        """The same for something new: what was seen up to it is forgotten."""
        self.wait_for(text, timeout)
        self.seen = self.seen.partition(text.encode())[2]

    def resize(self, rows: int, columns: int) -> None:
        """Give the window another size."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Terminal(Screen):
    """A terminal of this host."""

    def __init__(self) -> None:
        master, self.slave = os.openpty()
        super().__init__(master)

    @property
    def taken_over(self) -> bool:
        """Whether a program has it raw, and forgets nothing that is typed from now on."""
        local: int = termios.tcgetattr(self.slave)[3]
        return not local & termios.ICANON

    def close(self) -> None:
        """Leave."""
        os.close(self.master)
        os.close(self.slave)


@contextmanager
def console_socket(path: Path) -> Iterator[socket.socket]:
    """A listening socket that a runtime sends the master of a container's terminal to."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)
        yield listener
    path.unlink()


def received(listener: socket.socket) -> Screen:
    """The terminal that was sent; its master is the caller's to close."""
    connection, _ = listener.accept()
    with connection:
        _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
    (master,) = fds
    return Screen(master)
