"""From an inode number to a path: inotify remembers only the former."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.engine.files.table import FileTable

MAX_ENTRIES = 400_000  # a look-up happens while the container is frozen: it must end


def find_inode(table: FileTable, device: int, inode: int) -> str | None:
    """A path inside the container whose device and inode are these, or None.

    Likely places come first: working directories, directories of open files, then the whole tree
    of the mounts on that device, breadth first, up to `MAX_ENTRIES` entries.
    """
    wanted = (device, inode)
    for path in _likely(table):
        if _inode(table.root, path) == wanted:
            return path
    found = (search(table.root, top, device, inode) for top in _tops(table, device))
    return next((path for path in found if path is not None), None)


def search(root: str, top: str, device: int, inode: int) -> str | None:
    """A path below *top* whose device and inode are these, breadth first, or None.

    Args:
        root: Path of ours for the directory that paths start at.
        top: Where to begin, as the result says it.
        device: st_dev.
        inode: st_ino.
    """
    seen = 0
    pending = deque([top])
    while pending and seen < MAX_ENTRIES:
        directory = pending.popleft()
        for entry in _entries(root + directory):
            seen += 1
            path = f"{directory.rstrip('/')}/{entry.name}"
            if entry.inode() == inode and _inode(root, path) == (device, inode):
                return path
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
    return None


def _inode(root: str, path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(root + path, follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _likely(table: FileTable) -> list[str]:
    places = {"/"}
    for pid in table.context.frozen.pids:
        places.add(os.readlink(f"/proc/{pid}/cwd"))
    for group in table.looks.values():
        if group[0].link.startswith("/"):
            places.add(group[0].link)
            places.add(os.path.dirname(group[0].link))
    found = sorted(places)
    for place in list(found):
        found += [f"{place.rstrip('/')}/{entry.name}" for entry in _entries(table.root + place)]
    return found


def _tops(table: FileTable, device: int) -> list[str]:
    mounts = table.mounts.mounts.values()
    return [m.point for m in mounts if m.device == device] or ["/"]


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError:
        return []  # not a directory, or gone
