"""The source's part: a tree is offered, what the other side lacks is sent, then what changed."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from formats.header import HEADER_SIZE
from migrate.errors import MigrateError
from migrate.messages import FilesChanged, FilesEnd, FilesStored, FilesWanted
from migrate.protocol import DataSink, Peer
from migrate.rootfs.blocks import BlockWriter
from migrate.rootfs.content import (
    PIECE_SIZE,
    Pieces,
    digest_of_pieces,
    for_each_piece,
    piece_digest,
)
from migrate.rootfs.contents import put_data, put_end, put_zeros
from migrate.rootfs.entries import Entry, write_entries
from migrate.rootfs.modes import RootfsMode
from migrate.rootfs.numbers import MAX_PER_MESSAGE, pack_numbers, unpack_numbers
from migrate.rootfs.scan import WITHIN, mapped_files, scan
from migrate.transport import Buffer
from runtime.kernel.openat2 import openat2

log = logging.getLogger(__name__)

Through = Callable[[Callable[[Buffer], object]], Callable[[Buffer], object]]
"""Puts a rate limit around a write function."""


@dataclass(slots=True)
class RootfsReport:
    """What went along; bytes and files.

    Attributes:
        mode: As asked.
        files: In the tree, of all types.
        content_bytes: In its regular files, without zeros.
        sent_files: Regular files that travelled before the freeze.
        sent_bytes: As they travelled, lists included.
        late_files: Files that had changed by the freeze.
        late_sent_bytes: What travelled of them.
        late_ns: How long the container stood still for them.
    """

    mode: str = ""
    files: int = 0
    content_bytes: int = 0
    sent_files: int = 0
    sent_bytes: int = 0
    late_files: int = 0
    late_sent_bytes: int = 0
    late_ns: int = 0


class _Limited:
    """A sink with a rate limit."""

    def __init__(self, write: Callable[[Buffer], object]) -> None:
        self._write = write

    def write(self, data: Buffer, /) -> int:
        self._write(data)
        return len(data)


class SentTree:
    """A tree on its way.

    Args:
        top: Its directory.
        mode: What is to become of it.
        still: Whether the container cannot change it: it is read-only, or below an overlay.
        pids: The container's processes, asked anew each time.
        through: Puts a rate limit around a write function.

    Attributes:
        mode: As given.
        report: How it went.

    Raises:
        MigrateError: It cannot be read.
    """

    def __init__(
        self,
        top: Path,
        mode: RootfsMode,
        *,
        still: bool,
        pids: Callable[[], Collection[int]],
        through: Through,
    ) -> None:
        self.mode = mode
        self._still = still
        self._pids = pids
        self._through = through
        self._mapped = mapped_files(pids())
        self._tree = scan(top)
        self.report = RootfsReport(str(mode), len(self._tree.entries), self._tree.content_bytes)

    @property
    def needed_bytes(self) -> int:
        """Room that it needs in the destination's state root, about."""
        return self.report.content_bytes if self.mode is RootfsMode.ALL else 0

    def offer(self, peer: Peer) -> None:
        """Send the list of files."""
        sink = DataSink(peer)
        write_entries(sink, self._in_order(self._tree.entries))
        self.report.sent_bytes += sink.finish()

    def send(self, peer: Peer) -> None:
        """Send what the other side wants, until it has all of it."""
        if self.mode is RootfsMode.PRESENT:
            return
        while True:
            wanted = _wanted(peer)
            if wanted is None:
                return
            with peer.explaining():
                self.report.sent_bytes += self._send_files(peer, wanted, {})
            self.report.sent_files += len(wanted)

    def send_changes(self, peer: Peer) -> None:
        """Send what has changed since it was sent; the container is frozen.

        Raises:
            MigrateError: Something has, and nothing was to be sent.
        """
        if self._still:
            return
        began = time.monotonic_ns()
        try:
            with peer.explaining():
                self._send_changes(peer)
        finally:
            self.report.late_ns += time.monotonic_ns() - began

    def _send_changes(self, peer: Peer) -> None:
        before, old_pieces = self._tree, self._tree.pieces
        self._mapped |= mapped_files(self._pids())
        self._tree = tree = scan(before.top, before, self._mapped)
        removed = sorted(before.entries.keys() - tree.entries.keys(), reverse=True)
        changed = [
            entry
            for number, entry in tree.entries.items()
            if number not in before.entries or _differ(before.entries[number], entry)
        ]
        if not removed and not changed:
            return
        if self.mode is RootfsMode.PRESENT:
            names = [entry.name for entry in changed[:3]] or [before.entries[removed[0]].name]
            raise MigrateError(
                f"{before.top}: files have changed since they were compared"
                f" ({', '.join(map(repr, names))}); use --rootfs changed",
                reason="rootfs-changed",
            )
        self.report.late_files += len(removed) + len(changed)
        while len(removed) > MAX_PER_MESSAGE:
            part, removed = removed[:MAX_PER_MESSAGE], removed[MAX_PER_MESSAGE:]
            self._send_change(peer, part, [], {})
        self._send_change(peer, removed, changed, old_pieces)

    def _send_change(
        self, peer: Peer, removed: list[int], changed: list[Entry], known: dict[int, Pieces]
    ) -> None:
        peer.send(FilesChanged(pack_numbers(removed)))
        sink = DataSink(peer)
        write_entries(sink, changed)
        self.report.late_sent_bytes += sink.finish()
        files = [entry.number for entry in changed if entry.is_file]
        self.report.late_sent_bytes += self._send_files(peer, files, known)

    def before_the_image(
        self, peer: Peer, write: Callable[[Buffer], object]
    ) -> tuple[Callable[[], None], Callable[[Buffer], object]]:
        """See that what has changed goes before the image.

        Returns:
            What is to be called whenever the container is frozen, and the write function for the
            image.
        """
        ended = self.mode is RootfsMode.PRESENT
        held = bytearray()

        def ending(data: Buffer) -> object:
            nonlocal ended
            if ended:
                return write(data)
            # The header comes at once, the rest only when the container stays frozen.
            held.extend(data)
            if len(held) <= HEADER_SIZE:
                return None
            ended = True
            peer.send(FilesEnd())
            return write(held)

        def frozen() -> None:
            self.send_changes(peer)

        return frozen, ending

    def _in_order(self, entries: dict[int, Entry]) -> Iterable[Entry]:
        return (entries[number] for number in sorted(entries))

    def _send_files(self, peer: Peer, numbers: Sequence[int], known: dict[int, Pieces]) -> int:
        paths = {number: path for path, number in self._tree.numbers.items()}
        sink = DataSink(peer)
        limited = _Limited(self._through(sink.write))
        top = os.open(self._tree.top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with BlockWriter(limited) as blocks:
                for number in numbers:
                    if number not in paths or not self._tree.entries[number].is_file:
                        raise MigrateError(
                            f"{self._tree.top}: the other side wants file {number}, which is none",
                            reason="protocol",
                        )
                    self._send_file(blocks, top, number, paths[number], known.get(number))
        finally:
            os.close(top)
        return sink.finish()

    def _send_file(
        self, blocks: BlockWriter, top: int, number: int, path: str, known: Pieces | None
    ) -> None:
        """Send a file, or those of its pieces that the other side does not know."""
        pieces: Pieces = {}
        size = 0
        file = -1
        # Should it be gone, then the next look finds that out, and it is gone over there, too.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            file = openat2(top, path, flags, resolve=WITHIN)
        if file >= 0:
            try:
                status = os.fstat(file)
                if stat.S_ISREG(status.st_mode):
                    size = status.st_size
                    for offset, piece in for_each_piece(file, size):
                        pieces[offset] = digest = piece_digest(piece)
                        if known is None or known.get(offset) != digest:
                            put_data(blocks, number, offset, piece)
            finally:
                os.close(file)
        for offset in sorted(set(known or ()) - set(pieces)):
            if offset < size:
                put_zeros(blocks, number, offset, min(PIECE_SIZE, size - offset))
        digest = digest_of_pieces(pieces)
        put_end(blocks, number, size, digest)
        self._tree.pieces[number] = pieces
        # Its look stays what it was: what has changed since then the next one finds.
        entry = self._tree.entries[number]
        self._tree.entries[number] = replace(entry, size=size, digest=digest)


def _wanted(peer: Peer) -> list[int] | None:
    """What is asked for next; None when the other side has all of it."""
    numbers: list[int] = []
    while True:
        message = peer.receive_any(FilesWanted, FilesStored)
        if isinstance(message, FilesStored):
            return None
        assert isinstance(message, FilesWanted)
        numbers += unpack_numbers(message.numbers)
        if not message.more:
            return numbers


def _differ(one: Entry, other: Entry) -> bool:
    """Whether something has changed that is not only the time when it was read last."""
    return replace(one, atime_ns=0) != replace(other, atime_ns=0)
