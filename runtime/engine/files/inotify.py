"""inotify(7): the descriptor and its watches."""

from __future__ import annotations

import array
import fcntl
import os
import re
import termios

from formats.records.files import Inotify, InotifyWatch
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.mounts import open_inside
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
_WATCH = re.compile(r"inotify wd:([0-9a-f]+) ino:([0-9a-f]+) sdev:([0-9a-f]+) mask:([0-9a-f]+)")


class Inotifies(Kind):
    """Watches for changes of files."""

    name = "inotify"
    record = Inotify

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
            path = table.find_inode(_device(device), inode)
            if path is None:
                table.refuse(
                    look, "inotify-path", f"watches inode {inode}, whose path cannot be found"
                )
                return None
            watches.append(InotifyWatch(wd=wd, path=path, mask=mask))
        return Inotify(
            file_id=file_id, flags=look.flags, watches=tuple(watches), owner=table.owner(look)
        )

    def restore(self, files: RestoredFiles, record: Inotify) -> int:
        fd = inotify_init()
        for watch in record.watches:
            fcntl.ioctl(fd, INOTIFY_IOC_SETNEXTWD, watch.wd)
            # The path is the image's word: it must not lead out of the container.
            place = open_inside(files.root, watch.path, os.O_PATH | os.O_NOFOLLOW)
            try:
                got = inotify_add_watch(fd, f"/proc/self/fd/{place}", watch.mask & ~IN_IGNORED)
            finally:
                os.close(place)
            if got != watch.wd:
                raise RestoreError(f"inotify watch {watch.wd} of {watch.path} came back as {got}")
        return fd


def _queued(look: Look) -> bool:
    fd = look.duplicate()
    try:
        size = array.array("i", [0])
        fcntl.ioctl(fd, termios.FIONREAD, size)
        return bool(size[0])
    finally:
        os.close(fd)


def _device(encoded: int) -> int:
    """A kernel-internal dev_t (12 bits major, 20 bits minor) as os.makedev gives it."""
    return os.makedev(encoded >> 20, encoded & 0xFFFFF)
