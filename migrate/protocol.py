"""Frames and messages over a channel: what both ends of a conversation share.

Frame, little-endian; docs/protocol.md is the contract::

    offset  size  field
    0       1     type: 1 message, 2 data
    1       3     zero
    4       4     size in bytes of what follows
    8       size  message: msgpack [kind, map]; data: bytes of the image as they are

Before the first frame each side sends the line `GREETING`, so that a shell that prints something,
or a wherry of another age, is told apart before any length is believed. Whatever the far side
sends is hostile until checked: sizes before they are read, types before they are used.
"""

from __future__ import annotations

import contextlib
import io
import struct
import time
from collections.abc import Iterator
from typing import TypeVar

from formats import wire
from formats.errors import ImageCorruptError
from formats.records.codec import Record, kind_of, pack_record, unpack_record
from migrate.errors import ProtocolError, RemoteError, TransportError
from migrate.messages import MESSAGES, Abort, DataEnd, Failed, Ping
from migrate.transport import Buffer, Channel

GREETING = b"WHERRY-MIGRATE 1\n"
MAX_NOISE = 64  # bytes of a wrong greeting that are shown
MAX_MESSAGE_SIZE = 4 << 20  # an offer carries the OCI configuration
MAX_DATA_SIZE = 1 << 20
READ_SIZE = 1 << 20
PING_AFTER_S = 15.0
_FRAME = struct.Struct("<B3xI")
_ZEROS = b"\0\0\0"
_MESSAGE, _DATA = 1, 2
_MESSAGE_KINDS = frozenset(kind_of(cls.__new__(cls)) for cls in MESSAGES)

M = TypeVar("M", bound=Record)


class Peer:
    """One end of a conversation.

    Attributes:
        sent_bytes: Bytes of data frames sent so far, without their heads.
        received_bytes: The same, received.
        began_ns: CLOCK_REALTIME when the conversation began.
    """

    def __init__(self, channel: Channel, *, timeout_s: float | None) -> None:
        """Take a channel that nothing was read from yet.

        Args:
            channel: The carrier.
            timeout_s: How long to wait for the far side's next word, unless a call says else.
        """
        self._channel = channel
        self._timeout_s = timeout_s
        self._buffer = bytearray()
        self._data_bytes = 0  # received since the last end of data
        self._spoke = time.monotonic()
        self.sent_bytes = 0
        self.received_bytes = 0
        self.began_ns = time.time_ns()

    def greet(self, *, timeout_s: float | None = None) -> None:
        """Exchange the first line.

        Raises:
            ProtocolError: The far side says something else; reason ``no-wherry``.
            TransportError: It says nothing, or hung up.
        """
        # Something that is no wherry may have hung up already, and still have said what it is.
        with contextlib.suppress(TransportError):
            self._channel.write(GREETING)
        line = self._exactly(len(GREETING), timeout_s, expected=GREETING)
        if line != GREETING:
            shown = bytes(line[:MAX_NOISE]).decode("utf-8", "backslashreplace")
            raise ProtocolError(
                f"the far side answered {shown!r} and not as a wherry that speaks this protocol;"
                " is its wherry current, and does its shell print nothing at login?",
                reason="no-wherry",
            )

    # Messages

    def send(self, message: Record) -> None:
        """Send one message."""
        payload = wire.pack([kind_of(message), pack_record(message)])
        if len(payload) > MAX_MESSAGE_SIZE:
            raise ProtocolError(
                f"message {kind_of(message)} of {len(payload)} bytes, at most {MAX_MESSAGE_SIZE}"
                " are allowed",
                reason="message-too-large",
            )
        self._channel.write(_FRAME.pack(_MESSAGE, len(payload)) + payload)

    def keep_alive(self) -> None:
        """Say that we are at work, if the far side has not heard of us for a while."""
        now = time.monotonic()
        if now - self._spoke > PING_AFTER_S:
            self._spoke = now
            self.send(Ping())

    def receive(self, wanted: type[M], *, timeout_s: float | None = None) -> M:
        """The next message, which must be of one type; see `receive_any`."""
        message = self.receive_any(wanted, timeout_s=timeout_s)
        assert isinstance(message, wanted)
        return message

    def receive_any(self, *wanted: type[Record], timeout_s: float | None = None) -> Record:
        """The next message that is no ping.

        Args:
            *wanted: The types that may come now.
            timeout_s: Instead of the usual time.

        Raises:
            RemoteError: The far side reports a failure, or gives up.
            ProtocolError: Another message, or none of the protocol at all.
            TransportError: The connection broke, or nothing came in time.
        """
        while True:
            kind, payload = self._next_frame(timeout_s)
            if kind == _DATA:
                raise ProtocolError(f"data came where {_names(wanted)} was due")
            message = _unpack(payload)
            if isinstance(message, wanted):
                return message
            if isinstance(message, Failed):
                raise RemoteError(message.sentence, reason=message.reason)
            if isinstance(message, Abort):
                raise RemoteError(message.sentence, reason="aborted-by-peer")
            if not isinstance(message, Ping):
                raise ProtocolError(f"{kind_of(message)} came where {_names(wanted)} was due")

    # Data

    def send_data(self, data: Buffer) -> None:
        """Send bytes of the image."""
        view = memoryview(data).cast("B")
        while view:
            block, view = view[:MAX_DATA_SIZE], view[MAX_DATA_SIZE:]
            # The head travels with the first bytes: alone it would cost a packet of its own.
            self._channel.write(_FRAME.pack(_DATA, len(block)) + bytes(block[:16384]))
            if len(block) > 16384:
                self._channel.write(block[16384:])
            self.sent_bytes += len(block)

    def receive_data(self) -> bytes | None:
        """The next bytes of the image; None at their end.

        Raises:
            As `receive_any`; ProtocolError also when the sender counted other than we did.
        """
        while True:
            kind, payload = self._next_frame(None)
            if kind == _DATA:
                self.received_bytes += len(payload)
                self._data_bytes += len(payload)
                return bytes(payload)
            message = _unpack(payload)
            if isinstance(message, DataEnd):
                came, self._data_bytes = self._data_bytes, 0
                if message.total_bytes != came:
                    raise ProtocolError(
                        f"{came} bytes of data came, the sender says {message.total_bytes}"
                    )
                return None
            if isinstance(message, Failed):
                raise RemoteError(message.sentence, reason=message.reason)
            if isinstance(message, Abort):
                raise RemoteError(message.sentence, reason="aborted-by-peer")
            if not isinstance(message, Ping):
                raise ProtocolError(f"{kind_of(message)} came in the middle of the data")

    def receive_body(self, size: int) -> bytearray:
        """Data frames of *size* bytes in all, which a message has announced.

        Raises:
            As `receive_any`; ProtocolError also when something else comes.
        """
        body = bytearray()
        while len(body) < size:
            kind, payload = self._next_frame(None)
            if kind != _DATA or len(body) + len(payload) > size:
                raise ProtocolError(f"no data frame of at most {size} bytes came where one was due")
            self.received_bytes += len(payload)
            body += payload
        return body

    def idle(self) -> bool:
        """Whether nothing was read ahead."""
        return not self._buffer

    def forget_input(self) -> None:
        """Drop what was read ahead: a forked process has read the data to its end for us.

        Nothing is lost: after the end of the data the far side waits for an answer.
        """
        self._buffer.clear()

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Let the far side's own words explain why it hung up while we were sending."""
        try:
            yield
        except TransportError:
            # What it said before it hung up is still to be read.
            with contextlib.suppress(TransportError, ProtocolError):
                self.receive_any(timeout_s=2.0)
            raise

    # Frames

    def _next_frame(self, timeout_s: float | None) -> tuple[int, bytearray]:
        head = self._exactly(_FRAME.size, timeout_s)
        kind, size = _FRAME.unpack(head)
        limit = {_MESSAGE: MAX_MESSAGE_SIZE, _DATA: MAX_DATA_SIZE}.get(kind, -1)
        if limit < 0 or head[1:4] != _ZEROS:
            raise ProtocolError(f"a frame begins with {bytes(head).hex()}, which no frame does")
        if not 0 < size <= limit:
            raise ProtocolError(f"a frame of {size} bytes, 1 to {limit} are allowed")
        return kind, self._exactly(size, timeout_s)

    def _exactly(
        self, size: int, timeout_s: float | None, *, expected: bytes | None = None
    ) -> bytearray:
        """The next *size* bytes; fewer as soon as they differ from *expected*."""
        limit = self._timeout_s if timeout_s is None else timeout_s
        while len(self._buffer) < size:
            if expected is not None and not expected.startswith(bytes(self._buffer)):
                break
            data = self._channel.read(READ_SIZE, limit)
            if not data:
                raise TransportError(
                    "the far side hung up" + (" in the middle of a message" * bool(self._buffer))
                )
            self._buffer += data
        taken = self._buffer[:size]
        del self._buffer[:size]
        return taken


class DataSink:
    """Where an `ImageWriter` writes: its bytes leave as data frames.

    Small writes are collected, because a frame's head is followed by its body at once.
    """

    def __init__(self, peer: Peer, *, gather_bytes: int = 256 << 10) -> None:
        self._peer = peer
        self._gather_bytes = gather_bytes
        self._pending = bytearray()
        self._total = 0

    def write(self, data: Buffer, /) -> int:
        """Take all of *data*."""
        size = memoryview(data).nbytes
        self._total += size
        if size + len(self._pending) < self._gather_bytes:
            self._pending += data
        else:
            self.flush()
            self._peer.send_data(data)
        return size

    def finish(self) -> int:
        """Send the rest and the end; returns how many bytes there were."""
        self.flush()
        self._peer.send(DataEnd(self._total))
        return self._total

    def flush(self) -> None:
        """Send what was collected: nothing else will come for a while."""
        if self._pending:
            self._peer.send_data(self._pending)
            self._pending = bytearray()


class DataSource(io.RawIOBase):
    """What an `ImageReader` reads: the bytes of the data frames, to their end."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self._peer = peer
        self._rest = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Buffer) -> int:  # type: ignore[override]  # typeshed: WriteableBuffer
        """Fill *buffer* as far as one data frame reaches; 0 at the end of the data."""
        view = memoryview(buffer).cast("B")
        if not self._rest and not self._ended:
            data = self._peer.receive_data()
            self._ended = data is None
            self._rest = memoryview(data or b"")
        size = min(len(view), len(self._rest))
        view[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def drain(self) -> None:
        """Read to the end of the data, which must have been reached already.

        Raises:
            ProtocolError: There was more.
        """
        if self.read(1):
            raise ProtocolError("data goes on after the end of the image")


def _unpack(payload: bytearray) -> Record:
    """The message in a frame, with every type checked."""
    try:
        match wire.unpack(payload):
            case [str(kind), dict(fields)] if kind in _MESSAGE_KINDS:
                return unpack_record(kind, fields)
    except ImageCorruptError as exc:
        raise ProtocolError(f"a message cannot be read: {exc}") from exc
    raise ProtocolError("a frame holds no message of this protocol")


def _names(wanted: tuple[type[Record], ...]) -> str:
    return " or ".join(kind_of(cls.__new__(cls)) for cls in wanted) or "nothing"
