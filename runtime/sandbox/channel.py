"""Messages between the one who makes a container and the init that is on its way into it.

Two pipes carry JSON lines. Each side sees end-of-file when the other one is gone, so neither can
wait for ever: an init whose maker was killed exits, a maker whose init was killed reports it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from runtime.error_report import error_from_json, error_to_json
from runtime.errors import ContainerError

_MAX_LINE = 1 << 20


@dataclass(slots=True)
class Channel:
    """One end of a conversation."""

    read_fd: int
    write_fd: int
    _buffer: bytes = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send one message.

        Raises:
            BrokenPipeError: The other side is gone.
        """
        line = json.dumps(message).encode() + b"\n"
        while line:
            line = line[os.write(self.write_fd, line) :]

    def send_error(self, exc: BaseException) -> None:
        """Send a failure, which ``receive`` raises on the other side."""
        self.send({"error": error_to_json(exc)})

    def receive(self) -> dict[str, Any] | None:
        """Wait for the next message; None when the other side is gone.

        Raises:
            Exception: The other side sent its failure.
        """
        while b"\n" not in self._buffer:
            data = os.read(self.read_fd, 65536)
            if not data:
                return None
            self._buffer += data
            if len(self._buffer) > _MAX_LINE:
                raise ContainerError("a message of the init is too long", reason="sandbox-setup")
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise error_from_json(message["error"])
        return message

    def rest(self) -> bytes:
        """What was left without being a message when the other side went."""
        return self._buffer

    def expect(self, name: str) -> None:
        """Wait for the message *name*.

        Raises:
            ContainerError: The other side is gone.
            Exception: The other side sent its failure.
        """
        message = self.receive()
        if message is None:
            why = f"the init ended without a word before it was {name}"
            raise ContainerError(why, reason="init-vanished")
        if message["step"] != name:
            raise AssertionError(f"init: expected step {name!r}, got {message['step']!r}")

    def tell(self, name: str) -> None:
        """Say that step *name* has been reached."""
        self.send({"step": name})

    def close(self) -> None:
        """Close both descriptors."""
        for fd in (self.read_fd, self.write_fd):
            if fd >= 0:
                os.close(fd)
        self.read_fd = self.write_fd = -1


def channel_pair() -> tuple[Channel, Channel]:
    """Two ends, all descriptors close-on-exec."""
    near_read, far_write = os.pipe()
    far_read, near_write = os.pipe()
    return Channel(near_read, near_write), Channel(far_read, far_write)
