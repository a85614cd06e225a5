"""The destination's part: a tree is compared, what is missing is taken in, and then what changed.

Content that is here already (in the copy that is made equal, in other trees, in another file of
the same list) does not travel: it is copied, and its digest is compared again on the way.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from formats.errors import Refusal
from migrate.errors import MigrateError, ProtocolError
from migrate.messages import FilesChanged, FilesEnd, FilesStored, FilesWanted
from migrate.protocol import DataSource, Peer
from migrate.rootfs.content import Pieces, digest_of_pieces, for_each_piece, piece_digest
from migrate.rootfs.contents import DATA, END, Part, read_parts
from migrate.rootfs.entries import Entry, read_entries
from migrate.rootfs.listing import Listing
from migrate.rootfs.numbers import MAX_PER_MESSAGE, pack_numbers, unpack_numbers
from migrate.rootfs.place import Place
from migrate.rootfs.scan import WITHIN, Tree, scan
from runtime.kernel.openat2 import openat2

log = logging.getLogger(__name__)

SHOWN = 5  # files that a refusal names
Known = dict[tuple[int, bytes], tuple[Path, str]]
"""Where content is that has a size and a digest: a tree's top, and a path in it."""


def take_listing(peer: Peer) -> Listing:
    """Read the list of files of an offered tree.

    Raises:
        ProtocolError: It makes no sense.
    """
    source = DataSource(peer)
    listing = Listing().add_all(read_entries(source))
    source.drain()
    return listing


def differences(listing: Listing, tree: Tree) -> list[str]:
    """The paths of files that differ, or that only one side has."""
    links = _links_of(tree)
    wrong = []
    for number, path in listing.paths.items():
        other = tree.numbers.get(path)
        if (
            other is None
            or listing.entries[number].looks != tree.entries[other].looks
            or listing.same_file(number) != links.get(path, "")
        ):
            wrong.append(path or ".")
    theirs = set(listing.paths.values())
    return sorted(wrong + [path for path in tree.numbers if path not in theirs])


def _links_of(tree: Tree) -> dict[str, str]:
    """For each path that is a hard link, the path that it is a link to."""
    paths = {number: path for path, number in tree.numbers.items()}
    return {
        path: paths[tree.entries[number].link]
        for path, number in tree.numbers.items()
        if tree.entries[number].link >= 0
    }


def refusals_of(listing: Listing, top: Path, peer: Peer) -> list[Refusal]:
    """What stands in the way of taking the tree at *top* for the offered one."""
    found = differences(listing, scan(top, tick=peer.keep_alive))
    if not found:
        return []
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    names = ", ".join(repr(name)[1:-1] for name in found[:SHOWN])
    return [
        Refusal(
            "rootfs-differs",
            str(top),
            f"{len(found)} files differ from the source's: {names}{more}; send them with --rootfs"
            " changed",
        )
    ]


class TakenTree:
    """A tree that is made, or made equal.

    Args:
        listing: What it is to be.
        top: Its directory, which exists.
        bases: Other trees here, whose content may be what is wanted.
        peer: The source, which waits.
        fresh: Whether nothing is in *top*.
    """

    def __init__(
        self, listing: Listing, top: Path, bases: Sequence[Path], peer: Peer, *, fresh: bool
    ) -> None:
        self._tick = peer.keep_alive
        self._listing = listing
        self._top = top
        self._fresh = fresh
        self._pieces: dict[int, Pieces] = {}
        self._kept: set[int] = set()
        self._there = Tree(top) if fresh else scan(top, tick=self._tick)
        self._known = self._known_content(bases)
        self._taken: set[int] = set()  # files that came
        self._copied: set[int] = set()

    def take(self, peer: Peer) -> None:
        """Make the tree, with what the source sends of it.

        Raises:
            MigrateError, OSError: It failed.
        """
        with Place(self._top) as place:
            self._remove_others(place)
            self._make_directories(place)
            wanted = self._wanted()
            while True:
                if wanted:
                    self._ask_for(peer, wanted)
                    self._take_contents(peer, place, wanted)
                wanted = self._copy_known(place)
                if not wanted:
                    break
            self._make_others(place)
            self._adorn(place, self._listing.entries)
            place.sync()
        peer.send(FilesStored(len(self._taken), len(self._listing.entries)))

    def _ask_for(self, peer: Peer, wanted: Sequence[int]) -> None:
        for start in range(0, len(wanted), MAX_PER_MESSAGE):
            part = wanted[start : start + MAX_PER_MESSAGE]
            peer.send(FilesWanted(pack_numbers(part), start + len(part) < len(wanted)))

    def take_changes(self, peer: Peer) -> None:
        """Take in what has changed since, until the source says that this is all."""
        while True:
            message = peer.receive_any(FilesChanged, FilesEnd)
            if isinstance(message, FilesEnd):
                return
            assert isinstance(message, FilesChanged)
            with Place(self._top) as place:
                self._change(peer, place, unpack_numbers(message.removed))

    # What is here

    def _known_content(self, bases: Sequence[Path]) -> Known:
        """Find content that is wanted in what is here, and note what can stay as it is."""
        listing, there = self._listing, self._there
        self._kept = self._what_can_stay()
        known: Known = {}
        for number in self._kept:
            entry, path = listing.entries[number], listing.paths[number]
            if entry.is_file:
                known[entry.size, entry.digest] = (self._top, path)
                self._pieces[number] = there.pieces[there.numbers[path]]
        sizes = {entry.size for entry in listing.entries.values() if entry.is_file}
        for base in bases:
            tree = scan(base, only_sizes=sizes, tick=self._tick)
            for path, other in tree.numbers.items():
                entry = tree.entries[other]
                if entry.is_file and entry.digest:
                    known.setdefault((entry.size, entry.digest), (base, path))
        return known

    def _what_can_stay(self) -> set[int]:
        """The files whose content is right here, and that are linked with each other as wanted."""
        listing, there = self._listing, self._there
        links = _links_of(there)
        groups: dict[str, set[str]] = {}  # by first path, at the source
        for number, path in listing.paths.items():
            if listing.entries[number].link >= 0:
                groups.setdefault(listing.same_file(number), set()).add(path)
        here: dict[str, set[str]] = {}
        for path, first in links.items():
            here.setdefault(first, set()).add(path)
        stay = set()
        for number, path in listing.paths.items():
            other = there.numbers.get(path)
            if other is None or listing.entries[number].content != there.entries[other].content:
                continue
            first, first_here = listing.same_file(number) or path, links.get(path, path)
            if first == first_here and groups.get(first) == here.get(first):
                stay.add(number)
        # A link stays only with what it is a link to.
        return {n for n in stay if listing.entries[n].link < 0 or listing.entries[n].link in stay}

    def _wanted(self) -> list[int]:
        """The files whose content is nowhere here, each content once."""
        seen = set(self._known)
        wanted = []
        for number, entry in sorted(self._listing.entries.items()):
            if not entry.is_file or number in self._kept or not entry.size:
                continue
            if (entry.size, entry.digest) not in seen:
                seen.add((entry.size, entry.digest))
                wanted.append(number)
        return wanted

    def _remove_others(self, place: Place) -> None:
        """Remove what is not in the list, or of another kind."""
        if self._fresh:
            return
        numbers = {path: number for number, path in self._listing.paths.items()}
        for path, other in sorted(self._there.numbers.items(), reverse=True):
            number, here = numbers.get(path), self._there.entries[other]
            wanted = None if number is None else self._listing.entries[number]
            stays = wanted is not None and wanted.kind == here.kind
            if not stays or (number not in self._kept and not stat.S_ISDIR(here.mode)):
                place.remove(path)

    # Making

    def _make_directories(self, place: Place) -> None:
        there = self._there
        for number, entry in sorted(self._listing.entries.items()):
            path = self._listing.paths[number]
            if not stat.S_ISDIR(entry.mode) or not number:
                continue
            other = there.numbers.get(path)
            if other is None or not stat.S_ISDIR(there.entries[other].mode):
                place.make(path, entry)

    def _take_contents(self, peer: Peer, place: Place, wanted: Sequence[int]) -> None:
        source = DataSource(peer)
        waiting = list(reversed(wanted))
        parts = read_parts(source)
        for part in parts:
            if not waiting or part.number != waiting[-1]:
                raise ProtocolError(f"file {part.number} came, which was not wanted now")
            number = waiting.pop()
            entry = self._listing.entries[number]
            path = self._listing.paths[number]
            file = place.create(path)
            try:
                actual = self._fill(file, number, part, parts, {})
            finally:
                os.close(file)
            if actual == (entry.size, entry.digest):
                self._known[actual] = (self._top, path)
            self._taken.add(number)
        source.drain()
        if waiting:
            raise ProtocolError("the data ends before all files have come")

    def _fill(
        self, file: int, number: int, part: Part, parts: Iterator[Part], pieces: Pieces
    ) -> tuple[int, bytes]:
        """Write a file as its parts come; returns its size and digest, which are right.

        Args:
            file: Descriptor of it.
            number: Of its entry.
            part: The first part.
            parts: The others.
            pieces: What is in the file.
        """
        while part.kind != END:
            if part.kind == DATA:
                _write_at(file, part.data, part.offset)
                pieces[part.offset] = piece_digest(part.data)
            else:
                _write_at(file, bytes(part.size), part.offset)
                pieces.pop(part.offset, None)
            following = next(parts, None)
            if following is None or following.number != number:
                raise ProtocolError(f"file {number} was cut off")
            part = following
        size = part.offset
        os.ftruncate(file, size)
        pieces = {offset: digest for offset, digest in pieces.items() if offset < size}
        digest = digest_of_pieces(pieces)
        if digest != bytes(part.data):
            raise MigrateError(
                f"{self._top}/{self._listing.paths[number]}: what came is not what was sent",
                reason="rootfs-corrupt",
            )
        self._pieces[number] = pieces
        return size, digest

    def _copy_known(self, place: Place) -> list[int]:
        """Make the files whose content is here already.

        Returns:
            Those for which that is not so any more: a program is writing to what has it, here or at
            the source.
        """
        missing = []
        for number, entry in sorted(self._listing.entries.items()):
            done = number in self._kept or number in self._taken or number in self._copied
            if not entry.is_file or done:
                continue
            self._tick()
            path = self._listing.paths[number]
            file = place.create(path)
            try:
                os.ftruncate(file, entry.size)
                pieces = self._copy(file, entry) if entry.size else {}
            finally:
                os.close(file)
            if pieces is None:
                place.remove(path)
                missing.append(number)
            else:
                self._pieces[number] = pieces
                self._copied.add(number)
        return missing

    def _copy(self, file: int, entry: Entry) -> Pieces | None:
        """Fill a file with known content; None when it is not what it was."""
        pieces: Pieces = {}
        base, path = self._known.get((entry.size, entry.digest), (self._top, ""))
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            top = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, top)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            known = openat2(top, path, flags, resolve=WITHIN) if path else -1
            if known >= 0:
                opened.callback(os.close, known)
                for offset, piece in for_each_piece(known, entry.size):
                    _write_at(file, piece, offset)
                    pieces[offset] = piece_digest(piece)
        return pieces if digest_of_pieces(pieces) == entry.digest else None

    def _make_others(self, place: Place) -> None:
        for number, entry in sorted(self._listing.entries.items()):
            if number in self._kept or stat.S_ISDIR(entry.mode) or entry.is_file:
                continue
            self._make_other(place, entry)

    def _make_other(self, place: Place, entry: Entry) -> None:
        path = self._listing.paths[entry.number]
        if entry.link >= 0:
            place.link(path, self._listing.paths[entry.link])
        else:
            place.make(path, entry)

    def _adorn(self, place: Place, entries: dict[int, Entry]) -> None:
        """Files first, then directories from below, for every change in one changes its times."""
        numbers = sorted(entries, reverse=True)
        for number in numbers:
            if not stat.S_ISDIR(entries[number].mode) and entries[number].link < 0:
                place.adorn(self._listing.paths[number], entries[number])
        for number in numbers:
            if stat.S_ISDIR(entries[number].mode):
                place.adorn(self._listing.paths[number], entries[number])

    # Changes

    def _change(self, peer: Peer, place: Place, removed: Sequence[int]) -> None:
        listing = self._listing
        touched: set[int] = set()
        for number in removed:
            entry = listing.entries.get(number)
            if entry is not None:
                touched.add(entry.parent)
            place.remove(listing.remove(number))
            self._pieces.pop(number, None)
        source = DataSource(peer)
        changed: dict[int, Entry] = {}
        old: dict[int, Entry] = {}
        for entry in read_entries(source):
            before = listing.entries.get(entry.number)
            if before is not None:
                old[entry.number] = before
            listing.add(entry)
            changed[entry.number] = entry
        source.drain()
        links = [number for number, entry in changed.items() if entry.link >= 0]
        for number in [*sorted(changed.keys() - set(links)), *links]:
            entry, before = changed[number], old.get(number)
            if before is not None and before.is_file == entry.is_file:
                if stat.S_ISDIR(entry.mode) or entry.is_file:
                    continue
                if before.content == entry.content and before.link == entry.link < 0:
                    continue
            if before is not None:
                place.remove(listing.paths[number])
            if entry.is_file:
                os.close(place.create(listing.paths[number]))
                self._pieces[number] = {}
            else:
                self._make_other(place, entry)
            touched.add(entry.parent)
        self._take_changed(peer, place, [n for n, e in changed.items() if e.is_file])
        touched -= {-1}
        self._adorn(place, {**{n: listing.entries[n] for n in touched}, **changed})

    def _take_changed(self, peer: Peer, place: Place, numbers: Sequence[int]) -> None:
        source = DataSource(peer)
        waiting = list(reversed(numbers))
        parts = read_parts(source)
        for part in parts:
            if not waiting or part.number != waiting.pop():
                raise ProtocolError(f"file {part.number} came, which had not changed")
            number = part.number
            file = place.open(self._listing.paths[number])
            try:
                self._fill(file, number, part, parts, dict(self._pieces.get(number, {})))
                os.fsync(file)
            finally:
                os.close(file)
        source.drain()
        if waiting:
            raise ProtocolError("the data ends before all changed files have come")


def _write_at(file: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count
