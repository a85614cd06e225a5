"""fanotify(7): groups that only listen, and their marks on files, mounts and file systems.

A group that grants permissions is refused: whoever opens a file waits for its answer, and while its
program is stopped there is none. As with inotify, the events that a dump and a restore make
themselves are taken away again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from formats.records.files import Fanotify, FanotifyMark, RegularFile
from runtime.engine.files.inotify import device_of, find_watched
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.mounts import Mounted, open_inside
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.errors import RestoreError
from runtime.kernel import fanotify as fan
from runtime.kernel import proc_task
from runtime.kernel.aside import with_own_directories
from runtime.kernel.capabilities import (
    CAPABILITY_NUMBERS,
    get_capabilities,
    set_capabilities,
)
from runtime.kernel.mountinfo import Mount

SAVED = (
    (
        "fanotify",
        "groups that are told of events, with their marks on files, directories, mounts and file "
        "systems",
    ),
)
REFUSED = (
    ("fanotify-queue", "events that are not yet read; try again"),
    ("fanotify-permission", "a group whose answer decides whether others may open files"),
    ("fanotify-mark", "a mark on something that cannot be found"),
)

_NUMBERS = re.compile(r"(?:ino|mnt_id|sdev|mflags|mask|ignored_mask|flags|event-flags):[0-9a-f]+")
_ADMIN = 1 << CAPABILITY_NUMBERS["CAP_SYS_ADMIN"]
_TYPES = {"inode": 0, "mount": fan.FAN_MARK_MOUNT, "filesystem": fan.FAN_MARK_FILESYSTEM}
_QUALIFIERS = fan.FAN_MARK_IGNORED_SURV_MODIFY | fan.FAN_MARK_EVICTABLE | fan.FAN_MARK_IGNORE


class FanotifyGroups(Kind):
    """A group that listens."""

    name = "fanotify"
    record = Fanotify
    finishes_last = True  # what the restore itself does to files is no event

    def matches(self, table: FileTable, look: Look) -> bool:
        if look.link != "anon_inode:[fanotify]":
            return False
        # Asked before the dump opens files of its own.
        table.once(("fanotify", id(look)), lambda: _queued(look))
        return True

    def dump(self, table: FileTable, look: Look, file_id: int) -> Fanotify | None:
        (group,) = look.info["fanotify flags"]
        numbers = _numbers(f"flags:{group}")
        if numbers["flags"] & (fan.FAN_CLASS_CONTENT | fan.FAN_CLASS_PRE_CONTENT):
            table.refuse(look, "fanotify-permission", "decides whether others may open files")
            return None
        if table.made(("fanotify", id(look))):
            table.refuse(
                look,
                "fanotify-queue",
                "has events that are not yet read, which cannot be put back; try again",
            )
            return None
        marks = []
        for key in [key for key in look.info if key.startswith("fanotify ")]:
            for line in look.info[key] if key != "fanotify flags" else ():
                mark = _mark(table, key.removeprefix("fanotify "), line)
                if mark is None:
                    what = f"has a mark on {key.split()[1]} {line.split()[0]}, which is nowhere"
                    table.refuse(look, "fanotify-mark", what)
                    return None
                marks.append(mark)
        ours = look.duplicate()
        table.when_closed(lambda: _forget(ours))
        return Fanotify(
            file_id=file_id,
            flags=look.flags,
            init_flags=numbers["flags"],
            event_flags=numbers["event-flags"],
            privileged=bool(proc_task.status(look.pid).mask("CapEff") & _ADMIN),
            marks=tuple(marks),
            owner=table.owner(look),
        )

    def references(self, record: Fanotify) -> Iterable[int]:
        return [mark.file_id for mark in record.marks if mark.file_id]

    def restore(self, files: RestoredFiles, record: Fanotify) -> int:
        if record.init_flags & (fan.FAN_CLASS_CONTENT | fan.FAN_CLASS_PRE_CONTENT):
            raise RestoreError("a fanotify group with permissions", reason="image-inconsistent")
        if record.privileged:
            return fan.fanotify_init(record.init_flags, record.event_flags)

        def unprivileged() -> int:
            # Events tell a group less whose maker lacks the privilege.
            sets = get_capabilities()
            set_capabilities(sets._replace(effective=sets.effective & ~_ADMIN))
            return fan.fanotify_init(record.init_flags, record.event_flags)

        return with_own_directories(unprivileged)

    def finish(self, files: RestoredFiles, record: Fanotify) -> None:
        fd = files.fds[record.file_id]
        for mark in record.marks:
            if mark.file_id:
                _add(fd, mark, files.fds[mark.file_id])
                continue
            # The path is the image's word: it must not lead out of the container.
            flags = os.O_PATH | (os.O_NOFOLLOW if mark.kind == "inode" else 0)
            place = open_inside(files.root, mark.path, flags)
            try:
                _add(fd, mark, place)
            finally:
                os.close(place)
        ours = os.dup(fd)
        files.when_closed(lambda: _forget(ours))


def _add(fd: int, mark: FanotifyMark, target: int) -> None:
    if mark.kind not in _TYPES or mark.mask & fan.FAN_ALL_PERM_EVENTS:
        raise RestoreError("a malformed fanotify mark", reason="image-inconsistent")
    flags = fan.FAN_MARK_ADD | _TYPES[mark.kind] | mark.flags & fan.FAN_MARK_EVICTABLE
    try:
        if mark.mask:
            fan.fanotify_mark(fd, flags, mark.mask, target)
        if mark.ignored:
            how = mark.flags & (fan.FAN_MARK_IGNORE | fan.FAN_MARK_IGNORED_SURV_MODIFY)
            if not how & fan.FAN_MARK_IGNORE:
                how |= fan.FAN_MARK_IGNORED_MASK
            fan.fanotify_mark(fd, flags | how, mark.ignored, target)
    except OSError as exc:
        raise RestoreError(
            f"{mark.path}: cannot be watched as before: {exc}", reason="restore-failed"
        ) from exc


def _mark(table: FileTable, key: str, line: str) -> FanotifyMark | None:
    """The record of a mark, from its line of fdinfo; None when what it is on is nowhere."""
    numbers = _numbers(f"{key}:{line}")
    found: tuple[str, int] | None = None
    kind = ""
    if key == "ino":
        kind = "inode"
        found = find_watched(table, device_of(numbers["sdev"]), numbers["ino"])
    elif key == "mnt_id":
        kind = "mount"
        found = _top(table, [m for m in _mounts(table) if m.mount_id == numbers["mnt_id"]])
    elif key == "sdev":
        kind = "filesystem"
        device = device_of(numbers["sdev"])
        found = _top(table, [m for m in _mounts(table) if m.device == device])
    if found is None:
        return None
    path, file_id = found
    return FanotifyMark(
        kind=kind,
        path=path,
        mask=numbers["mask"],
        ignored=numbers["ignored_mask"],
        flags=numbers["mflags"] & _QUALIFIERS,
        file_id=file_id,
    )


def _mounts(table: FileTable) -> list[Mount]:
    entries = [entry.mount for entry in table.mounts.entries.values()]
    return entries or list(table.mounts.mounts.values())


def _top(table: FileTable, mounts: list[Mount]) -> tuple[str, int] | None:
    """The top of one of *mounts*: its path, and a file record where that alone does not tell."""
    for mount in mounts:
        entry = table.mounts.entries.get(mount.mount_id)
        if entry is None:
            return mount.point, 0
        if entry.top >= 0:
            return mount.point, _file_of(table, entry)
    return None


def _file_of(table: FileTable, entry: Mounted) -> int:
    def make() -> int:
        file_id = table.context.new_id()
        status = os.stat(f"/proc/self/fd/{entry.top}")
        found = table.mounts.find(entry, entry.mount.point, status)
        table.records.append(
            RegularFile(
                file_id=file_id,
                path=entry.mount.point,
                flags=os.O_PATH,
                position=0,
                kind="special",
                mount_id=entry.number,
                inner=".",
                hidden=bool(found and found[1]),
            )
        )
        return file_id

    return table.once(("mount top", entry.number), make)


def _numbers(line: str) -> dict[str, int]:
    pairs = (pair.split(":") for pair in _NUMBERS.findall(line))
    return {key: int(value, 16) for key, value in pairs}


def _queued(look: Look) -> bool:
    fd = look.duplicate()
    try:
        return bool(fan.waiting(fd))
    finally:
        os.close(fd)


def _forget(fd: int) -> None:
    """Take all events of a group that had none, and close our descriptor of it."""
    try:
        fan.discard(fd)
    finally:
        os.close(fd)
