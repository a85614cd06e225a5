"""Taking in a state file: verified while it arrives, named when it is complete."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

from formats.chunks import DIGEST_SIZE
from formats.errors import ImageCorruptError, ImageError, Refusal
from formats.manifest import ImageSummary
from formats.partial import PartialFile
from formats.statefile import ImageReader, StateFile, verify_file
from migrate.errors import TransportError
from migrate.messages import OfferFile, Ready, Refuse, Stored
from migrate.protocol import DataSource, Peer
from migrate.transport import Buffer

log = logging.getLogger(__name__)

CUT_OFF_S = 5.0  # within so long a receiver notices that its line is cut


def receive_file(peer: Peer, offer: OfferFile) -> None:
    """Store what the far side offers, or refuse it.

    Raises:
        ImageError: What arrived is no intact image, or cannot be written; nothing is left of it.
        TransportError: The connection broke; what had come is kept for whoever goes on.
        MigrateError: The source gave up; nothing is left of it.
    """
    path = target_of(offer)
    if offer.again and (stored := _stored_before(path, offer)) is not None:
        peer.send(Ready(str(path), offer.size_bytes))
        peer.receive_data()
        peer.send(stored)
        return
    refusals = obstacles(path, offer)
    if refusals:
        peer.send(Refuse.of(refusals))
        return
    if len(offer.root) != DIGEST_SIZE:
        peer.send(Ready(str(path)))
        with StateFile(path) as whole:
            summary = _copy_verified(_Tee(DataSource(peer), whole), path)
            whole.commit()
    else:
        with PartialFile(path, offer.root, wait_s=CUT_OFF_S if offer.again else 0.0) as file:
            summary = _continued(peer, file, path)
            file.commit()
    log.info("stored %s, %d bytes", path, summary.file_size)
    peer.send(Stored(str(path), summary.file_size, summary.root.hex()))


def _stored_before(path: Path, offer: OfferFile) -> Stored | None:
    """The answer when the offered file is there: it was the answer that got lost."""
    try:
        if path.stat().st_size != offer.size_bytes:
            return None
        summary = verify_file(path)
    except (OSError, ImageError):
        return None
    if summary.root != offer.root:
        return None
    return Stored(str(path), summary.file_size, summary.root.hex())


def _continued(peer: Peer, file: PartialFile, path: Path) -> ImageSummary:
    """Check what is there, and take in what follows."""
    chain = _Chain(peer, file, path)
    try:
        try:
            return _copy_verified(chain, path)
        except ImageCorruptError:
            if chain.began:
                raise
            log.warning("%s: what had come of it is damaged; it comes anew", path)
            file.begin_anew()
            return _copy_verified(_Chain(peer, file, path), path)
    except TransportError:
        file.keep()
        raise


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


def _copy_verified(source: _Tee | _Chain, path: Path) -> ImageSummary:
    reader = ImageReader(source, name=path.name)
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

    def drain(self) -> None:
        """As `DataSource.drain`."""
        self._source.drain()


class _Chain(io.RawIOBase):
    """What is there of a file, then what comes; the source is told to go on between the two.

    Attributes:
        began: Whether it was told.
    """

    def __init__(self, peer: Peer, file: PartialFile, path: Path) -> None:
        super().__init__()
        self._peer = peer
        self._file = file
        self._path = path
        self._position = 0
        self._rest: _Tee | None = None

    @property
    def began(self) -> bool:
        return self._rest is not None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:  # type: ignore[override]  # as in DataSource
        if self._rest is None:
            size = self._file.read_at(memoryview(buffer).cast("B"), self._position)
            self._position += size
            self._peer.keep_alive()
            if size:
                return size
        return self._following().readinto(buffer)

    def drain(self) -> None:
        """As `DataSource.drain`."""
        self._following().drain()

    def _following(self) -> _Tee:
        if self._rest is None:
            self._peer.send(Ready(str(self._path), self._file.size))
            self._rest = _Tee(DataSource(self._peer), self._file)
        return self._rest
