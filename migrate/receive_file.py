"""Taking in a state file: verified while it arrives, named when it is complete."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

from formats.errors import Refusal
from formats.manifest import ImageSummary
from formats.statefile import ImageReader, StateFile
from migrate.messages import OfferFile, Ready, Refuse, Stored
from migrate.protocol import DataSource, Peer
from migrate.transport import Buffer

log = logging.getLogger(__name__)


def receive_file(peer: Peer, offer: OfferFile) -> None:
    """Store what the far side offers, or refuse it.

    Raises:
        ImageError: What arrived is no intact image, or cannot be written; nothing is left of it.
        MigrateError: The connection broke; nothing is left of it.
    """
    path = target_of(offer)
    refusals = obstacles(path, offer)
    if refusals:
        peer.send(Refuse.of(refusals))
        return
    peer.send(Ready(str(path)))
    with StateFile(path) as file:
        summary = _copy_verified(DataSource(peer), file, path)
        file.commit()
    log.info("stored %s, %d bytes", path, summary.file_size)
    peer.send(Stored(str(path), summary.file_size, summary.root.hex()))


def target_of(offer: OfferFile) -> Path:
    """Where a file goes, as scp would say: a directory keeps the file's name.

    Only the last component of the offered name counts, so that it cannot lead elsewhere.
    """
    name = Path(offer.name).name or "image.wherry"
    path = Path(offer.path or ".").expanduser().absolute()
    return path / name if offer.path.endswith("/") or path.is_dir() else path


def obstacles(path: Path, offer: OfferFile) -> list[Refusal]:
    """Everything that stands in the way of storing a file at *path*."""
    found = []
    parent = path.parent
    if not parent.is_dir():
        found.append(Refusal("no-such-directory", str(parent), "there is no such directory"))
        return found
    if not os.access(parent, os.W_OK | os.X_OK):
        found.append(Refusal("not-writable", str(parent), "the directory is not writable"))
    if path.is_dir():
        found.append(Refusal("is-a-directory", str(path), "there is a directory of that name"))
    elif path.exists() and not path.is_file():
        found.append(Refusal("not-a-file", str(path), "it exists and is no regular file"))
    elif os.path.lexists(path) and not offer.overwrite:
        found.append(Refusal("file-exists", str(path), "it exists; replace it with --force"))
    disk = os.statvfs(parent)
    free = disk.f_bavail * disk.f_frsize
    if free < offer.size_bytes:
        found.append(
            Refusal(
                "disk-full",
                str(parent),
                f"{offer.size_bytes} bytes are to come and {free} are free there",
            )
        )
    return found


def _copy_verified(source: DataSource, file: StateFile, path: Path) -> ImageSummary:
    reader = ImageReader(_Tee(source, file), name=path.name)
    reader.records()
    reader.for_each_chunk(lambda chunk, plain: None, check_ids=True)
    summary = reader.finish()
    source.drain()
    return summary


class _Tee(io.RawIOBase):
    """Reads from one place and keeps what was read in another."""

    def __init__(self, source: DataSource, sink: StateFile) -> None:
        super().__init__()
        self._source = source
        self._sink = sink

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:  # type: ignore[override]  # as in DataSource
        view = memoryview(buffer).cast("B")
        size = self._source.readinto(view)
        rest = view[:size]
        while rest:
            rest = rest[self._sink.write(rest) :]
        return size
