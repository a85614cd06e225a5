"""Shipping a state file to another host, where it appears only when complete and verified."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from formats.errors import ImageError
from formats.header import HEADER_SIZE, unpack_header
from formats.statefile import open_image
from migrate.errors import MigrateError
from migrate.messages import OfferFile, Ready, Refuse, Stored
from migrate.protocol import DataSink
from migrate.rate_limit import RateLimit
from migrate.remote import Conversation, Route, talk_to
from runtime.engine.api import Progress, no_progress
from runtime.errors import RefusedError

if TYPE_CHECKING:
    from migrate.ssh import Ask

BLOCK_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class ShipReport:
    """What was shipped.

    Attributes:
        path: Where the file is now, at the destination.
        size_bytes: Of the file.
        elapsed_ns: From the first byte sent to the word that it is stored.
        root: Root digest of the image as the destination found it, in hexadecimal.
    """

    path: str
    size_bytes: int
    elapsed_ns: int
    root: str

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
) -> ShipReport:
    """Copy a state file to ``route.destination.path`` on the far host.

    The file is verified there while it arrives, frame by frame, and gets its name only when all of
    it is right and synced. A failure leaves nothing there, and never harms a file that was there.

    Args:
        path: The state file.
        route: How to get there; a directory keeps the file's name, as with scp.
        overwrite: Replace an existing file.
        bytes_per_s: Upper limit of the rate.
        progress: Called with ``"ship"``, bytes done and bytes in total.
        ask: For passphrases and passwords.

    Raises:
        ImageError: *path* is no state file.
        RefusedError: The far side cannot take it, and why.
        MigrateError: The transfer failed.
    """
    with open_image(path) as source:
        size = _check(source, path)
        with talk_to(route, ask) as far:
            return _send(far, source, path, size, route, overwrite, bytes_per_s, progress)


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


def _send(
    far: Conversation,
    source: BinaryIO,
    path: Path,
    size: int,
    route: Route,
    overwrite: bool,
    bytes_per_s: float | None,
    progress: Progress,
) -> ShipReport:
    if "file" not in far.hello.features:
        raise MigrateError(
            f"wherry {far.hello.wherry} on {route.destination} cannot receive files",
            reason="missing-feature",
        )
    offer = OfferFile(route.destination.path or "", path.name, size, overwrite)
    far.peer.send(offer)
    answer = far.peer.receive_any(Ready, Refuse)
    if isinstance(answer, Refuse):
        raise RefusedError(f"cannot ship {path} to {route.destination}", answer.refusals)
    started = time.monotonic_ns()
    sink = DataSink(far.peer)
    write = sink.write if bytes_per_s is None else RateLimit(sink.write, bytes_per_s).write
    done = 0
    progress("ship", 0, size)
    with far.peer.explaining():
        # No more than was offered, should the file grow meanwhile.
        while done < size and (block := source.read(min(BLOCK_SIZE, size - done))):
            write(block)
            done += len(block)
            progress("ship", done, size)
        sink.finish()
    stored = far.peer.receive(Stored)
    elapsed = time.monotonic_ns() - started
    return ShipReport(stored.path, stored.size_bytes, elapsed, stored.root)
