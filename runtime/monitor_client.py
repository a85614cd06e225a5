"""Talking to a container's monitor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.error_report import error_from_json
from runtime.line_socket import LineSocket, Message, connect
from runtime.monitor import SOCKET_NAME


class MonitorGoneError(Exception):
    """Nobody answers at the container's control socket: its monitor has ended, or it has none."""


class MonitorClient:
    """A conversation with a monitor; a context manager."""

    def __init__(self, directory: Path) -> None:
        """Connect.

        Raises:
            MonitorGoneError: There is no monitor (any more).
        """
        try:
            self._line: LineSocket = connect(directory / SOCKET_NAME)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as exc:
            raise MonitorGoneError(str(directory)) from exc

    def fileno(self) -> int:
        """The socket's descriptor, for those who wait for several things."""
        return self._line.fileno()

    def request(self, op: str, fds: Sequence[int] = (), **keys: Any) -> Message:
        """Ask, and wait for the first answer.

        Raises:
            MonitorGoneError: The monitor ended before it answered.
            WherryError, OSError: The failure that the monitor reports.
        """
        self.post(op, fds, **keys)
        return self.receive()

    def post(self, op: str, fds: Sequence[int] = (), **keys: Any) -> None:
        """Ask, without waiting for the answer.

        Raises:
            MonitorGoneError: The monitor has ended.
        """
        try:
            self._line.send({"op": op, **keys}, fds)
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise MonitorGoneError(op) from exc

    def receive(self) -> Message:
        """Wait for the next answer.

        Raises:
            MonitorGoneError: The monitor ended before it answered.
            WherryError, OSError: The failure that the monitor reports.
        """
        try:
            answer = self._line.receive()
        except ConnectionResetError as exc:
            raise MonitorGoneError("connection reset") from exc
        if answer is None:
            raise MonitorGoneError("connection closed")
        if "error" in answer:
            raise error_from_json(answer["error"])
        return answer

    def take_fds(self) -> list[int]:
        """The descriptors that came with answers; the caller closes them."""
        return self._line.take_fds()

    def close(self) -> None:
        """Hang up; a lease that was not released is lost by that."""
        self._line.close()

    def __enter__(self) -> MonitorClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
