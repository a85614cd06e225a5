"""Shipping a state file to another host, where it appears only when complete and verified."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from formats.errors import ImageError
from formats.frames import HEAD_SIZE
from formats.header import HEADER_SIZE, unpack_header
from formats.manifest import END_SIZE, unpack_end
from formats.statefile import open_image
from migrate.errors import (
    HostKeyError,
    LoginError,
    MigrateError,
    ProtocolError,
    RemoteError,
    TransportError,
)
from migrate.messages import OfferFile, Ready, Refuse, Stored
from migrate.protocol import DataSink, Peer
from migrate.rate_limit import RateLimit
from migrate.remote import RETRY_FOR_S, RETRY_PAUSE_S, Conversation, Route, talk_to
from runtime.engine.api import Progress, no_progress
from runtime.errors import RefusedError

if TYPE_CHECKING:
    from migrate.ssh import Ask

log = logging.getLogger(__name__)

BLOCK_SIZE = 1 << 20
MAX_VAIN = 5


@dataclass(frozen=True, slots=True)
class ShipReport:
    """What was shipped.

    Attributes:
        path: Where the file is now, at the destination.
        size_bytes: Of the file.
        elapsed_ns: From the first byte sent to the word that it is stored.
        root: Root digest of the image as the destination found it, in hexadecimal.
        sent_bytes: What travelled; less than all of it when a part was there from an earlier go,
            more when a connection broke.
        connections: How many there were.
    """

    path: str
    size_bytes: int
    elapsed_ns: int
    root: str
    sent_bytes: int
    connections: int

    @property
    def bytes_per_s(self) -> float:
        """Rate of the whole transfer, verification included."""
        return self.size_bytes * 1e9 / max(self.elapsed_ns, 1)


def ship(
    path: Path,
    route: Route,
    *,
    overwrite: bool = False,
    bytes_per_s: float | None = None,
    progress: Progress = no_progress,
    ask: Ask | None = None,
    retry_for_s: float = RETRY_FOR_S,
) -> ShipReport:
    """Copy a state file to ``route.destination.path`` on the far host.

    The file is verified there while it arrives, frame by frame, and gets its name only when all of
    it is right and synced. A failure never harms a file that was there. When the connection breaks,
    what has come is kept there under a hidden name, and gone on with: at once, as soon as the host
    can be reached again, or by a later call.

    Args:
        path: The state file.
        route: How to get there; a directory keeps the file's name, as with scp.
        overwrite: Replace an existing file.
        bytes_per_s: Upper limit of the rate.
        progress: Called with ``"ship"``, bytes done and bytes in total.
        ask: For passphrases and passwords.
        retry_for_s: How long to try again when the connection breaks, from its last byte on.

    Raises:
        ImageError: *path* is no state file.
        RefusedError: The far side cannot take it, and why.
        MigrateError: The transfer failed.
    """
    with open_image(path) as source:
        size = _check(source, path)
        sending = _Sending(source, path, size, route, overwrite, bytes_per_s, progress)
        return sending.run(ask, retry_for_s)


def _check(source: BinaryIO, path: Path) -> int:
    """Refuse at once what the far side would refuse after the whole transfer."""
    if not path.is_file():
        raise ImageError(f"{path}: not a regular file", reason="image-unreadable")
    try:
        unpack_header(source.read(HEADER_SIZE))
    except ImageError as exc:
        raise type(exc)(f"{path}: {exc}", reason=exc.reason) from exc
    source.seek(0)
    return os.fstat(source.fileno()).st_size


def _root_of(source: BinaryIO, size: int) -> bytes:
    """The root digest that stands at the end of an image; empty when there is none."""
    if size < END_SIZE:
        return b""
    source.seek(size - END_SIZE)
    raw = source.read(END_SIZE)
    source.seek(0)
    try:
        return unpack_end(raw[HEAD_SIZE:]).root
    except ImageError:
        return b""  # the far side will say what is wrong with it


class _Sending:
    """A file on its way, over as many connections as it takes."""

    def __init__(
        self,
        source: BinaryIO,
        path: Path,
        size: int,
        route: Route,
        overwrite: bool,
        bytes_per_s: float | None,
        progress: Progress,
    ) -> None:
        self._source = source
        self._path = path
        self._size = size
        self._route = route
        self._overwrite = overwrite
        self._bytes_per_s = bytes_per_s
        self._progress = progress
        self._root = _root_of(source, size)
        self._sent = self._connections = 0
        self._offset = 0  # where the last connection went on
        self._vain = 0  # connections in a row that found no more there than the one before
        self._last = 0.0  # when the last byte went, CLOCK_MONOTONIC

    def run(self, ask: Ask | None, retry_for_s: float) -> ShipReport:
        """Send it."""
        started = time.monotonic_ns()
        while True:
            try:
                with talk_to(self._route, ask) as far:
                    if not self._connections:
                        started = time.monotonic_ns()
                    self._connections += 1
                    stored = self._send(far)
                break
            except (LoginError, HostKeyError):
                raise
            except RemoteError:
                # What was there may have been damaged; it is gone now.
                if not self._offset or self._vain > MAX_VAIN:
                    raise
            except TransportError as exc:
                # Before the first byte, a far side that hangs up would do so again.
                late = time.monotonic() > self._last + retry_for_s
                if not self._last or late or self._vain > MAX_VAIN:
                    raise
                log.info("%s: %s; trying again", self._path, exc)
                time.sleep(RETRY_PAUSE_S)
        elapsed = time.monotonic_ns() - started
        return ShipReport(
            *(stored.path, stored.size_bytes, elapsed, stored.root),
            sent_bytes=self._sent,
            connections=self._connections,
        )

    def _send(self, far: Conversation) -> Stored:
        destination = self._route.destination
        if "file" not in far.hello.features:
            raise MigrateError(
                f"wherry {far.hello.wherry} on {destination} cannot receive files",
                reason="missing-feature",
            )
        offer = OfferFile(
            *(destination.path or "", self._path.name, self._size, self._overwrite),
            root=self._root if "resume" in far.hello.features else b"",
            again=bool(self._last),
        )
        far.peer.send(offer)
        answer = far.peer.receive_any(Ready, Refuse)
        if isinstance(answer, Refuse):
            raise RefusedError(f"cannot ship {self._path} to {destination}", answer.refusals)
        assert isinstance(answer, Ready)
        if not 0 <= answer.offset <= self._size:
            raise ProtocolError(f"the far side has {answer.offset} of {self._size} bytes")
        self._vain = 0 if answer.offset > self._offset else self._vain + 1
        self._offset = answer.offset
        self._last = time.monotonic()
        with far.peer.explaining():
            self._send_from(far.peer, answer.offset)
        return far.peer.receive(Stored)

    def _send_from(self, peer: Peer, offset: int) -> None:
        sink = DataSink(peer)
        rate = self._bytes_per_s
        write = sink.write if rate is None else RateLimit(sink.write, rate).write
        done = offset
        self._source.seek(offset)
        self._progress("ship", done, self._size)
        # No more than was offered, should the file grow meanwhile.
        while done < self._size:
            block = self._source.read(min(BLOCK_SIZE, self._size - done))
            if not block:
                break
            write(block)
            done += len(block)
            self._sent += len(block)
            self._last = time.monotonic()
            self._progress("ship", done, self._size)
        self._last = time.monotonic()
        sink.finish()
