"""inotify(7): the descriptor and its watches.

A dump reads directories and files, and a restore opens and closes many. Both take away the events
that they have made themselves, while the program is still stopped.
"""

from __future__ import annotations

import array
import fcntl
import os
import re
import termios
from collections.abc import Iterable

from formats.records.files import Inotify, InotifyWatch
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.mounts import DELETED, open_inside
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.errors import RestoreError
from runtime.kernel.anonfd import inotify_add_watch, inotify_init

REFUSED = (
    ("inotify-queue", "events that are not yet read; try again"),
    ("inotify-path", "a watch on a file whose path cannot be found"),
)

INOTIFY_IOC_SETNEXTWD = 0x40044900  # _IOW('I', 0, s32), include/uapi/linux/inotify.h
IN_IGNORED = 0x8000
_READING = 0x1 | 0x10 | 0x20  # IN_ACCESS, IN_CLOSE_NOWRITE, IN_OPEN
_WATCH = re.compile(r"inotify wd:([0-9a-f]+) ino:([0-9a-f]+) sdev:([0-9a-f]+) mask:([0-9a-f]+)")


class Inotifies(Kind):
    """Watches for changes of files."""

    name = "inotify"
    record = Inotify
    finishes_last = True  # what the restore itself does to files is no event

    def matches(self, table: FileTable, look: Look) -> bool:
        return look.link in ("anon_inode:inotify", "anon_inode:[inotify]")

    def dump(self, table: FileTable, look: Look, file_id: int) -> Inotify | None:
        if _queued(look):
            table.refuse(
                look,
                "inotify-queue",
                "has events that are not yet read, which cannot be put back; try again",
            )
            return None
        watches = []
        for line in look.info.get("inotify", ()):
            match = _WATCH.match(line)
            if match is None:
                raise ValueError(f"inotify shows a watch as {line!r}")
            wd, inode, device, mask = (int(group, 16) for group in match.groups())
            found = find_watched(table, device_of(device), inode)
            if found is None:
                table.refuse(
                    look, "inotify-path", f"watches inode {inode}, whose path cannot be found"
                )
                return None
            watches.append(InotifyWatch(wd=wd, path=found[0], mask=mask, file_id=found[1]))
        if any(watch.mask & _READING for watch in watches):
            ours = look.duplicate()
            table.when_closed(lambda: _forget(ours))
        return Inotify(
            file_id=file_id, flags=look.flags, watches=tuple(watches), owner=table.owner(look)
        )

    def references(self, record: Inotify) -> Iterable[int]:
        return [watch.file_id for watch in record.watches if watch.file_id]

    def restore(self, files: RestoredFiles, record: Inotify) -> int:
        return inotify_init()

    def finish(self, files: RestoredFiles, record: Inotify) -> None:
        fd = files.fds[record.file_id]
        for watch in record.watches:
            fcntl.ioctl(fd, INOTIFY_IOC_SETNEXTWD, watch.wd)
            if watch.file_id:
                got = _watch(fd, files.fds[watch.file_id], watch.mask)
            else:
                # The path is the image's word: it must not lead out of the container.
                place = open_inside(files.root, watch.path, os.O_PATH | os.O_NOFOLLOW)
                try:
                    got = _watch(fd, place, watch.mask)
                finally:
                    os.close(place)
            if got != watch.wd:
                raise RestoreError(f"inotify watch {watch.wd} of {watch.path} came back as {got}")
        ours = os.dup(fd)
        files.when_closed(lambda: _forget(ours))


def _watch(inotify: int, fd: int, mask: int) -> int:
    return inotify_add_watch(inotify, f"/proc/self/fd/{fd}", mask & ~IN_IGNORED)


def find_watched(table: FileTable, device: int, inode: int) -> tuple[str, int] | None:
    """Where a watched file is: (path, 0), or (its old path, an open file of it)."""
    for look in table.with_inode(device, inode):
        if not look.stat.st_nlink:
            file_id = table.file_id(look.pid, look.fd)
            return look.link.removesuffix(DELETED), file_id or 0
    path = table.find_inode(device, inode)
    return table.find_elsewhere(device, inode) if path is None else (path, 0)


def _queued(look: Look) -> bool:
    fd = look.duplicate()
    try:
        return bool(_waiting(fd))
    finally:
        os.close(fd)


def _waiting(fd: int) -> int:
    size = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, size)
    return size[0]


def _forget(fd: int) -> None:
    """Take all events of an instance that had none, and close our descriptor of it."""
    try:
        while size := _waiting(fd):
            os.read(fd, size)
    finally:
        os.close(fd)


def device_of(encoded: int) -> int:
    """A kernel-internal dev_t (12 bits major, 20 bits minor) as os.makedev gives it."""
    return os.makedev(encoded >> 20, encoded & 0xFFFFF)
