"""What changed between two images: tasks, files, and memory by mapping.

Contents are compared by the names of chunks, without reading any. So a change is known to the
chunk: of a mapping, *changed bytes* are those pages of it that lie in chunks which differ, at most
1 MiB around each byte that was really written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from formats.chunks import ChunkMeta
from formats.records.codec import Record
from formats.records.files import Inode, Tree
from formats.records.memory import AddressSpace, Backing, Vma
from formats.records.task import Process

_SHARED = (Backing.SHARED, Backing.SEGMENT)
Window = tuple[tuple[tuple[int, int], ...], bytes]  # runs and chunk id


@dataclass(slots=True)
class ImageContents:
    """What the comparison needs of one image.

    Attributes:
        processes: By pid.
        spaces: Address spaces by id.
        inodes: Files of the trees that the image carries, by tree and path.
        names: A file record's path by its id.
        windows: Chunks by object id and offset.
    """

    processes: dict[int, Process] = field(default_factory=dict)
    spaces: dict[int, AddressSpace] = field(default_factory=dict)
    inodes: dict[tuple[str, str], Inode] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    windows: dict[int, dict[int, Window]] = field(default_factory=dict)

    def windows_of(self, *object_ids: int) -> dict[int, Window]:
        """The chunks of some objects together, by offset."""
        found: dict[int, Window] = {}
        for object_id in object_ids:
            found |= self.windows.get(object_id, {})
        return found


@dataclass(frozen=True, slots=True)
class TaskChange:
    """One process that differs.

    Attributes:
        pid, name: The process.
        change: ``added``, ``removed`` or ``changed``.
        details: What about it.
    """

    pid: int
    name: str
    change: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file of the container's own that differs; sizes in bytes, None where there is none."""

    path: str
    change: str
    size_before: int | None
    size_after: int | None


@dataclass(frozen=True, slots=True)
class MemoryChange:
    """One mapping that differs.

    Attributes:
        pid: Of one of its processes.
        start, end: Byte addresses.
        name: The file, or ``[heap]`` and the like.
        change: ``added``, ``removed`` or ``changed``.
        changed_bytes: See above; of an added or removed one, what the image holds of it.
    """

    pid: int
    start: int
    end: int
    name: str
    change: str
    changed_bytes: int


@dataclass(frozen=True, slots=True)
class ImageDiff:
    """All that differs."""

    tasks: tuple[TaskChange, ...]
    files: tuple[FileChange, ...]
    memory: tuple[MemoryChange, ...]


def gather(records: Iterable[Record], metas: Iterable[ChunkMeta]) -> ImageContents:
    """Sort what was read of an image."""
    found = ImageContents()
    trees: dict[int, Tree] = {}
    for rec in records:
        match rec:
            case Process():
                found.processes[rec.pid] = rec
            case AddressSpace():
                found.spaces[rec.mm_id] = rec
            case Tree():
                trees[rec.tree_id] = rec
            case Inode() if rec.tree_id in trees:
                found.inodes[trees[rec.tree_id].path, rec.path] = rec
            case _ if isinstance(getattr(rec, "file_id", None), int):
                name = getattr(rec, "path", "") or getattr(rec, "name", "")
                found.names[rec.file_id] = _text(name)  # type: ignore[attr-defined]
    for meta in metas:
        windows = found.windows.setdefault(meta.object_id, {})
        windows[meta.offset] = (meta.runs, meta.chunk_id)
    return found


def diff(before: ImageContents, after: ImageContents) -> ImageDiff:
    """Compare two images whose chunks are named in the same way."""
    return ImageDiff(
        tuple(_tasks(before, after)), tuple(_files(before, after)), tuple(_memory(before, after))
    )


def _tasks(before: ImageContents, after: ImageContents) -> Iterator[TaskChange]:
    for pid in sorted(before.processes.keys() | after.processes.keys()):
        old, new = before.processes.get(pid), after.processes.get(pid)
        if old is None or new is None:
            one = old or new
            assert one is not None
            yield TaskChange(pid, _text(one.comm), "removed" if new is None else "added")
            continue
        details = tuple(_task_details(before, after, old, new))
        if details:
            yield TaskChange(pid, _text(new.comm), "changed", details)


def _task_details(
    before: ImageContents, after: ImageContents, old: Process, new: Process
) -> Iterator[str]:
    for what in ("comm", "ppid", "pgid", "sid", "cwd", "zombie", "stopped"):
        was, now = getattr(old, what), getattr(new, what)
        if was != now:
            yield f"{what} {_text(was)} -> {_text(now)}"
    threads = {one.tid for one in old.threads}, {one.tid for one in new.threads}
    yield from (f"thread {tid} has ended" for tid in sorted(threads[0] - threads[1]))
    yield from (f"thread {tid} is new" for tid in sorted(threads[1] - threads[0]))
    was_open = {one.fd: before.names.get(one.file_id, "") for one in old.descriptors}
    is_open = {one.fd: after.names.get(one.file_id, "") for one in new.descriptors}
    for fd in sorted(was_open.keys() | is_open.keys()):
        if fd not in is_open:
            yield f"fd {fd} is closed: {was_open[fd]}".rstrip(": ")
        elif fd not in was_open:
            yield f"fd {fd} is new: {is_open[fd]}".rstrip(": ")
        elif was_open[fd] != is_open[fd]:
            yield f"fd {fd}: {was_open[fd]} -> {is_open[fd]}"


def _files(before: ImageContents, after: ImageContents) -> Iterator[FileChange]:
    for key in sorted(before.inodes.keys() | after.inodes.keys()):
        old, new = before.inodes.get(key), after.inodes.get(key)
        path = "/".join(part.strip("/") for part in ("", *key) if part.strip("/") not in ("", "."))
        sizes = (old.size if old else None, new.size if new else None)
        if old is None:
            yield FileChange(f"/{path}", "added", *sizes)
        elif new is None:
            yield FileChange(f"/{path}", "removed", *sizes)
        elif _identity(before, old) != _identity(after, new):
            yield FileChange(f"/{path}", "changed", *sizes)


def _identity(contents: ImageContents, inode: Inode) -> tuple[Any, ...]:
    """What makes a file what it is; its times do not."""
    return (
        inode.mode,
        inode.uid,
        inode.gid,
        inode.size,
        inode.target,
        inode.device,
        inode.link,
        inode.xattrs,
        contents.windows_of(inode.object_id) if inode.object_id else {},
    )


def _memory(before: ImageContents, after: ImageContents) -> Iterator[MemoryChange]:
    seen: set[int] = set()
    for pid in sorted(before.processes.keys() & after.processes.keys()):
        old = before.spaces.get(before.processes[pid].mm_id)
        new = after.spaces.get(after.processes[pid].mm_id)
        if old is not None and new is not None and new.mm_id not in seen:
            seen.add(new.mm_id)  # of threads that share it under several pids, once
            yield from _mappings(pid, before, old, after, new)


def _mappings(
    pid: int, before: ImageContents, old: AddressSpace, after: ImageContents, new: AddressSpace
) -> Iterator[MemoryChange]:
    for vma in new.vmas:
        if vma.backing is Backing.VDSO:
            continue
        twin = next((one for one in old.vmas if one.start < vma.end and vma.start < one.end), None)
        windows = _windows(after, new, vma)
        if twin is not None:
            windows = _differing(_windows(before, old, twin), windows)
        count = _bytes_within(windows.values(), *_extent(vma))
        if count or twin is None:
            change = "added" if twin is None else "changed"
            yield MemoryChange(pid, vma.start, vma.end, _name(after, new, vma), change, count)
    for vma in old.vmas:
        gone = not any(one.start < vma.end and vma.start < one.end for one in new.vmas)
        if gone and vma.backing is not Backing.VDSO:
            count = _bytes_within(_windows(before, old, vma).values(), *_extent(vma))
            name = _name(before, old, vma)
            yield MemoryChange(pid, vma.start, vma.end, name, "removed", count)


def _windows(contents: ImageContents, space: AddressSpace, vma: Vma) -> dict[int, Window]:
    """The chunks that may hold pages of a mapping."""
    if vma.backing in _SHARED:
        return contents.windows_of(vma.object_id)
    return contents.windows_of(space.mm_id, space.early_id)


def _extent(vma: Vma) -> tuple[int, int]:
    """Where a mapping is in its object: addresses, or offsets of shared memory."""
    if vma.backing in _SHARED:
        return vma.offset, vma.offset + vma.end - vma.start
    return vma.start, vma.end


def _differing(old: dict[int, Window], new: dict[int, Window]) -> dict[int, Window]:
    """Chunks that are not the same in both; as they are now, or were if they are gone."""
    return {
        offset: new.get(offset) or old[offset]
        for offset in old.keys() | new.keys()
        if old.get(offset) != new.get(offset)
    }


def _bytes_within(windows: Iterable[Window], start: int, end: int) -> int:
    return sum(
        max(0, min(at + length, end) - max(at, start)) for runs, _ in windows for at, length in runs
    )


def _name(contents: ImageContents, space: AddressSpace, vma: Vma) -> str:
    layout = space.layout
    if vma.name:
        return vma.name
    if vma.backing is Backing.FILE:
        return contents.names.get(vma.object_id, "") or "a file"
    if vma.start < layout.brk and layout.start_brk < vma.end:
        return "[heap]"
    if vma.start <= layout.start_stack < vma.end:
        return "[stack]"
    return "[shared]" if vma.backing in _SHARED else "[anonymous]"


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
