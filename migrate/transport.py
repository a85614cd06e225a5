"""A byte stream to the far side, whatever carries it.

The protocol needs no more than this: ordered bytes in both directions, a way to say that no more
will come, and reads that give up after a while. Real carriers are an SSH channel (ssh.py) and the
standard descriptors of ``wherry receive`` (here).
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import Protocol

from migrate.errors import TransportError

Buffer = bytes | bytearray | memoryview


class Channel(Protocol):
    """Ordered bytes in both directions."""

    def read(self, size: int, timeout_s: float | None) -> bytes:
        """At least one byte and at most *size*; empty at the end of the stream.

        Raises:
            TransportError: The connection broke, or nothing came within *timeout_s* seconds
                (reason ``timeout``).
        """

    def write(self, data: Buffer) -> None:
        """Write all of *data*, waiting while the far side does not take it.

        Raises:
            TransportError: The connection broke.
        """

    def close(self) -> None:
        """End both directions; idempotent."""


class DescriptorChannel:
    """Two descriptors as a channel: the standard input and output of ``wherry receive``."""

    def __init__(self, reader: int, writer: int, *, write_timeout_s: float = 60.0) -> None:
        self._reader = reader
        self._writer = writer
        self._write_timeout_s = write_timeout_s
        # A far side that vanished must not hold us for ever in a write.
        os.set_blocking(writer, False)

    def read(self, size: int, timeout_s: float | None) -> bytes:
        """See `Channel`."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if not poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000))):
            raise TransportError(f"no word from the far side for {timeout_s:g} s", reason="timeout")
        try:
            return os.read(self._reader, size)
        except OSError as exc:
            raise TransportError(f"connection lost: {exc.strerror}") from exc

    def write(self, data: Buffer) -> None:
        """See `Channel`."""
        view = memoryview(data).cast("B")
        deadline = time.monotonic() + self._write_timeout_s
        while view:
            try:
                view = view[os.write(self._writer, view) :]
                deadline = time.monotonic() + self._write_timeout_s
            except BlockingIOError:
                self._wait_writable(deadline)
            except OSError as exc:
                raise TransportError(f"connection lost: {exc.strerror}") from exc

    def fds(self) -> tuple[int, int]:
        """The descriptors: for reading, for writing."""
        return self._reader, self._writer

    def _wait_writable(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._writer, select.POLLOUT)
        if not poll.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            raise TransportError(
                f"the far side took nothing for {self._write_timeout_s:g} s", reason="timeout"
            )

    def close(self) -> None:
        """See `Channel`."""
        for descriptor in {self._reader, self._writer}:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._reader = self._writer = -1
