"""JSON lines with descriptors over a UNIX stream socket: what commands and monitors speak.

Every message is one JSON object on one line. Descriptors travel in the ancillary data of the
message's first byte (SCM_RIGHTS, man 7 unix), so they have arrived when the line is complete.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_LINE = 4 << 20  # a process document with a large environment fits; nothing sane is larger
MAX_FDS = 64

Message = dict[str, Any]


class LineSocket:
    """One end of a conversation. Messages arrive in order; each owns the descriptors it brought."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()
        self._fds: deque[int] = deque()

    def fileno(self) -> int:
        """The socket's descriptor, so that selectors take the object itself."""
        return self.sock.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send one message with descriptors.

        Raises:
            OSError: The other side is gone.
        """
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        sent = socket.send_fds(self.sock, [line], list(fds), socket.MSG_NOSIGNAL)
        self.sock.sendall(line[sent:], socket.MSG_NOSIGNAL)

    def receive(self) -> Message | None:
        """Wait for the next message; None when the other side has closed.

        Raises:
            ValueError: What came is no JSON object, or too long.
        """
        while True:
            message = self.next_message()
            if message is not None or not self.fill():
                return message

    def fill(self) -> bool:
        """Read what has arrived; False at the end of the conversation."""
        data, fds = receive_with_fds(self.sock, 65536)
        self._fds.extend(fds)
        self._buffer += data
        if len(self._buffer) > MAX_LINE:
            raise ValueError(f"a message of more than {MAX_LINE} bytes")
        return bool(data)

    def next_message(self) -> Message | None:
        """The next complete message among what was read, None when there is none."""
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("a message that is no JSON object")
        return message

    def take_fds(self) -> list[int]:
        """The descriptors that have arrived; the caller closes them."""
        fds = list(self._fds)
        self._fds.clear()
        return fds

    def close(self) -> None:
        """Close the socket and descriptors that nobody has taken."""
        for fd in self.take_fds():
            os.close(fd)
        self.sock.close()

    def __enter__(self) -> LineSocket:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def receive_with_fds(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Receive bytes and the descriptors that come with them, close-on-exec from the first moment.

    Not socket.recv_fds(): up to Python 3.11 that drops its flags.
    """
    fds = array.array("i")
    space = socket.CMSG_LEN(MAX_FDS * fds.itemsize)
    data, ancillary, _flags, _address = sock.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)


def peer_uid(sock: socket.socket) -> int:
    """The effective uid of the process at the other end.

    Source: SO_PEERCRED, struct ucred, man 7 unix.
    """
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _pid, uid, _gid = struct.unpack("=iII", credentials)
    return int(uid)


@contextlib.contextmanager
def _short_address(path: Path) -> Any:
    """An address for *path* that fits into sockaddr_un's 108 bytes however long the path is."""
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def listen(path: Path) -> socket.socket:
    """A listening socket under *path*, for root only.

    Raises:
        OSError: The name is taken or the directory is gone.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short_address(path) as address:
            sock.bind(address)
        path.chmod(0o600)
        sock.listen(64)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(path: Path) -> LineSocket:
    """Connect to a listening socket.

    Raises:
        FileNotFoundError, ConnectionRefusedError: Nobody listens there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short_address(path) as address:
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return LineSocket(sock)
