"""One file of a tree, as it travels: everything but its content.

A tree is a list of entries; the first is its top directory, and each other one names its parent by
number and itself by one component. So there is no path that could be absolute or lead upwards: a
reader builds every path from entries that it has judged itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from formats import wire
from formats.errors import ImageCorruptError
from formats.frames import Source
from formats.writer import Sink
from migrate.errors import ProtocolError
from migrate.rootfs.blocks import BlockWriter, read_blocks

MAX_ENTRIES = 1 << 21
MAX_NAME = 255  # bytes, NAME_MAX of include/uapi/linux/limits.h
MAX_TARGET = 4095  # bytes of a symbolic link
MAX_XATTRS = 128
NO_PARENT = -1
DIGEST_SIZE = 32
_KINDS = frozenset(
    (
        *(stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK),
        *(stat.S_IFIFO, stat.S_IFSOCK),
    )
)
_TYPES = (int, int, int, int, int, str, *(int,) * 5, str, list, int, bytes)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of any type.

    Attributes:
        number: Of the entry; a tree's files keep theirs, and none is used twice.
        parent: Number of its directory; `NO_PARENT` for the top.
        name: Within the directory; empty for the top.
        mode: Type and permissions, ``st_mode``.
        uid, gid: Owner.
        atime_ns, mtime_ns: Times, nanoseconds.
        size: Bytes of a regular file; 0 else.
        device: (major, minor) of a device; (0, 0) else.
        target: Of a symbolic link; empty else.
        xattrs: Extended attributes, ACLs among them, in order of their names.
        link: Number of the entry that is the same file, a hard link; -1 for none.
        digest: Of a regular file's content, see `migrate.rootfs.content`; empty else.
    """

    number: int
    parent: int
    name: str
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    size: int = 0
    device: tuple[int, int] = (0, 0)
    target: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    link: int = -1
    digest: bytes = b""

    @property
    def kind(self) -> int:
        """``S_IFMT`` of the mode."""
        return stat.S_IFMT(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file with content of its own."""
        return stat.S_ISREG(self.mode) and self.link < 0

    @property
    def content(self) -> tuple[object, ...]:
        """What of it cannot be set but has to be made."""
        return (self.kind, self.size, self.device, self.target, self.digest)

    @property
    def looks(self) -> tuple[object, ...]:
        """What two files must have in common to be equal, besides place and times."""
        owner = (self.mode, self.uid, self.gid)
        return (*owner, self.size, self.device, self.target, self.xattrs, self.digest)


def write_entries(sink: Sink, entries: Iterable[Entry]) -> None:
    """Send entries as a sequence of blocks."""
    with BlockWriter(sink) as blocks:
        for entry in entries:
            blocks.put(wire.pack(_packed(entry)))


def read_entries(source: Source) -> Iterator[Entry]:
    """The entries of a sequence of blocks, each judged by itself.

    Raises:
        ProtocolError: One is malformed, or there are too many.
    """
    count = 0
    for block in read_blocks(source):
        try:
            for value in wire.unpack_all(block):
                count += 1
                if count > MAX_ENTRIES:
                    raise ProtocolError(f"a tree of more than {MAX_ENTRIES} files")
                yield _unpacked(value)
        except ImageCorruptError as exc:
            raise ProtocolError(f"a list of files cannot be read: {exc}") from exc


def _packed(entry: Entry) -> list[object]:
    xattrs = [[name, value] for name, value in entry.xattrs]
    numbers = [entry.number, entry.parent, entry.mode, entry.uid, entry.gid]
    times = [entry.atime_ns, entry.mtime_ns]
    rest = [entry.target, xattrs, entry.link, entry.digest]
    return [*numbers, entry.name, *times, entry.size, *entry.device, *rest]


def _unpacked(value: object) -> Entry:
    if type(value) is not list or tuple(type(item) for item in value) != _TYPES:
        raise ProtocolError("a file of a tree is malformed")
    number, parent, mode, uid, gid, name, atime, mtime, size, major, minor, target = value[:12]
    xattrs, link, digest = value[12:]
    entry = Entry(
        *(number, parent, name, mode, uid, gid, atime, mtime, size, (major, minor), target),
        _xattrs(xattrs),
        link,
        digest,
    )
    problem = _problem(entry)
    if problem:
        raise ProtocolError(f"file {number} of a tree, {name!r:.80}: {problem}")
    return entry


def _xattrs(given: list[object]) -> tuple[tuple[str, bytes], ...]:
    if len(given) > MAX_XATTRS:
        raise ProtocolError(f"a file with {len(given)} extended attributes")
    found = []
    for pair in given:
        if type(pair) is not list or [type(item) for item in pair] != [str, bytes]:
            raise ProtocolError("an extended attribute is malformed")
        found.append((pair[0], pair[1]))
    return tuple(found)


def _problem(entry: Entry) -> str:
    """What no honest side would say of a file, or nothing."""
    name, top = os.fsencode(entry.name), entry.parent == NO_PARENT
    numbers = (entry.uid, entry.gid, entry.mode, *entry.device)
    if entry.kind not in _KINDS or not all(0 <= number < 1 << 32 for number in numbers):
        return "a mode, an owner or a device is out of range"
    if not 0 <= entry.number < MAX_ENTRIES or not NO_PARENT <= entry.parent < MAX_ENTRIES:
        return "a number is out of range"
    if not top and (name in (b"", b".", b"..") or b"/" in name or b"\0" in name):
        return "that is no name"
    if len(name) > MAX_NAME or (top and (name or entry.number or not stat.S_ISDIR(entry.mode))):
        return "that is no name, or no top directory"
    target = os.fsencode(entry.target)
    if bool(target) != stat.S_ISLNK(entry.mode) or len(target) > MAX_TARGET or b"\0" in target:
        return "it leads nowhere"
    if not 0 <= entry.size < 1 << 63 or (entry.size and not entry.is_file):
        return "a size is out of range"
    if len(entry.digest) != (DIGEST_SIZE if entry.is_file else 0):
        return "its digest is malformed"
    if not -1 <= entry.link < MAX_ENTRIES or (entry.link >= 0 and stat.S_ISDIR(entry.mode)):
        return "it is a link to nothing"
    return ""
