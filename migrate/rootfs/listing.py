"""The destination's idea of a tree that is offered: entries that fit together, and their paths."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

from migrate.errors import ProtocolError
from migrate.rootfs.entries import NO_PARENT, Entry

MAX_PATH = 4000  # bytes; below PATH_MAX of include/uapi/linux/limits.h


@dataclass(slots=True)
class Listing:
    """A tree, by entry number.

    Attributes:
        entries: Each file.
        paths: Relative to the top; the top's own is empty.
    """

    entries: dict[int, Entry] = field(default_factory=dict)
    paths: dict[int, str] = field(default_factory=dict)
    _names: dict[tuple[int, str], int] = field(default_factory=dict)

    @property
    def content_bytes(self) -> int:
        """Bytes of all regular files."""
        return sum(entry.size for entry in self.entries.values() if entry.is_file)

    def add(self, entry: Entry) -> None:
        """Add a file, or change one that is there.

        Raises:
            ProtocolError: It does not fit the others.
        """
        old = self.entries.get(entry.number)
        parent = self.entries.get(entry.parent)
        place = (entry.parent, entry.name)
        if (entry.parent == NO_PARENT) != (entry.number == 0):
            raise _wrong(entry, "it has no directory")
        if entry.number and (parent is None or not stat.S_ISDIR(parent.mode)):
            raise _wrong(entry, "its directory is none")
        if entry.parent >= entry.number:
            raise _wrong(entry, "it comes before its directory")
        if self._names.get(place, entry.number) != entry.number:
            raise _wrong(entry, "its name is taken")
        if old is not None and (place != (old.parent, old.name) or entry.kind != old.kind):
            raise _wrong(entry, "it has become another file")
        first = self.entries.get(entry.link)
        if entry.link >= 0 and (
            first is None or first.link >= 0 or first is old or first.kind != entry.kind
        ):
            raise _wrong(entry, "it is a link to nothing")
        path = entry.name
        if parent is not None and entry.parent:
            path = f"{self.paths[entry.parent]}/{entry.name}"
        if len(os.fsencode(path)) > MAX_PATH:
            raise _wrong(entry, "its path is too long")
        self.entries[entry.number] = entry
        self.paths[entry.number] = path
        self._names[place] = entry.number

    def remove(self, number: int) -> str:
        """Take a file out; returns its path. What is in a directory goes before it.

        Raises:
            ProtocolError: It is not there, or is the top.
        """
        entry = self.entries.pop(number, None)
        if entry is None or number == 0:
            raise ProtocolError(f"file {number} of a tree is to go, and is not there")
        del self._names[entry.parent, entry.name]
        return self.paths.pop(number)

    def add_all(self, entries: Iterable[Entry]) -> Listing:
        """Add all of a fresh tree; returns this one."""
        for entry in entries:
            self.add(entry)
        if not self.entries:
            raise ProtocolError("a tree without a top")
        return self

    def same_file(self, number: int) -> str:
        """Path of the file that this one is a hard link to; empty when it is none."""
        link = self.entries[number].link
        return "" if link < 0 else self.paths[link]


def _wrong(entry: Entry, why: str) -> ProtocolError:
    return ProtocolError(f"file {entry.number} of a tree, {entry.name!r:.80}: {why}")
