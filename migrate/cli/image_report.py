"""What an image holds, gathered from its records and its index for people and programs.

The contents are not read, so this is quick for an image of any size; and it is not verified.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formats.errors import ImageError
from formats.external import ExternalImageReader
from formats.header import Header
from formats.index import ImageIndex
from formats.manifest import ImageSummary
from formats.records.codec import Record, class_of, unpack_record
from formats.records.files import DeletedFile, ExternalFile, Inode, MemFd, Pipe, PipeEnd, Tree
from formats.records.image import Host, Image
from formats.records.memory import AddressSpace, SharedMemory
from formats.records.task import Process
from formats.sealed_file import Unlock
from formats.statefile import ImageReader, open_image

_REGULAR = 0o100000  # S_IFREG, <sys/stat.h>
_TYPE_MASK = 0o170000  # S_IFMT


@dataclass(slots=True)
class Contents:
    """Sizes of the chunks of one object, or of several."""

    chunks: int = 0
    plain_bytes: int = 0
    stored_bytes: int = 0

    def add(self, other: Contents) -> None:
        """Count the chunks of *other* too."""
        self.chunks += other.chunks
        self.plain_bytes += other.plain_bytes
        self.stored_bytes += other.stored_bytes

    @property
    def ratio(self) -> float:
        """How many times smaller it is in the image."""
        return self.plain_bytes / self.stored_bytes if self.stored_bytes else 1.0


@dataclass(slots=True)
class ImageReport:
    """An image's records, sorted by what they are about.

    Attributes:
        path: The file, or the snapshot as ``STORE:ID``.
        header: Format and features.
        summary: Counts and sizes of the end frame, the root digest among them.
        kinds: How many records of each kind, unknown ones included.
        image, host: The records of these kinds, or None.
        processes: By pid.
        spaces: Address spaces by id.
        shared: Shared-memory objects by id.
        files: File records by id.
        kind_of_file: Kind of each file record by id, without ``file-``.
        pipes: Pipes by id.
        trees: Directory trees by id, with the count of their files.
        deleted: Files without a name, by object id.
        objects: Sizes of the contents by object id.
    """

    path: str
    header: Header
    summary: ImageSummary
    kinds: Counter[str] = field(default_factory=Counter)
    image: Image | None = None
    host: Host | None = None
    processes: dict[int, Process] = field(default_factory=dict)
    spaces: dict[int, AddressSpace] = field(default_factory=dict)
    shared: dict[int, SharedMemory] = field(default_factory=dict)
    files: dict[int, Record] = field(default_factory=dict)
    kind_of_file: dict[int, str] = field(default_factory=dict)
    pipes: dict[int, Pipe] = field(default_factory=dict)
    trees: dict[int, Tree] = field(default_factory=dict)
    tree_files: Counter[int] = field(default_factory=Counter)
    tree_of_object: dict[int, int] = field(default_factory=dict)
    deleted: dict[int, DeletedFile] = field(default_factory=dict)
    objects: dict[int, Contents] = field(default_factory=dict)

    def contents_of(self, *object_ids: int) -> Contents:
        """Sizes of the contents of these objects together."""
        total = Contents()
        for object_id in object_ids:
            if object_id in self.objects:
                total.add(self.objects[object_id])
        return total

    def contents_of_tree(self, tree_id: int) -> Contents:
        """Sizes of the contents of a tree's files together."""
        return self.contents_of(
            *(object_id for object_id, tree in self.tree_of_object.items() if tree == tree_id)
        )

    def users_of(self, mm_id: int) -> list[Process]:
        """The processes that have this address space."""
        return [process for process in self.processes.values() if process.mm_id == mm_id]

    def file_text(self, file_id: int) -> str:
        """A file in a few words: its path where it has one, else what it is."""
        rec = self.files.get(file_id)
        match rec:
            case None:
                return f"missing file {file_id}"
            case PipeEnd(pipe_id=pipe_id) if pipe_id in self.pipes:
                pipe = self.pipes[pipe_id]
                name = pipe.path or f"pipe {pipe_id}"
                return f"{name}, {len(pipe.content)} bytes in it"
            case ExternalFile():
                return f"{rec.name} of the container: {rec.description}"
            case MemFd():
                return f"memfd {rec.name}"
        path = getattr(rec, "path", "") or getattr(rec, "name", b"")
        return _text(path) or self.kind_of_file[file_id]


def read_report(path: Path, unlock: Unlock | None = None) -> ImageReport:
    """Read what a state file says about itself; *unlock* finds the key of an encrypted one.

    Raises:
        ImageError: It cannot be read, or is damaged in what was read.
    """
    with open_image(path, unlock) as source:
        reader = ImageReader(source)
        records = _read_records(reader)
        try:
            index = ImageIndex(source)
            report = ImageReport(str(path), reader.header, index.summary)
            for entry in index.for_each_entry():
                contents = report.objects.setdefault(entry.meta.object_id, Contents())
                contents.add(Contents(1, entry.head.plain_size, entry.head.stored_size))
        except ImageError as exc:
            raise type(exc)(f"{reader.name}: {exc}", reason=exc.reason) from exc
    return _filled(report, records)


def read_snapshot_report(
    name: str, reader: ExternalImageReader, stored_size: Callable[[bytes], int]
) -> ImageReport:
    """Read what a snapshot says about itself, without its contents.

    Args:
        name: As the report calls it.
        reader: At its start.
        stored_size: The bytes that a chunk takes in the store, others' share included.

    Raises:
        ImageError: It is damaged.
    """
    records = _read_records(reader)
    objects: dict[int, Contents] = {}
    for meta in reader.for_each_meta():
        plain = sum(length for _, length in meta.runs)
        contents = objects.setdefault(meta.object_id, Contents())
        contents.add(Contents(1, plain, stored_size(meta.chunk_id)))
    stored = sum(contents.stored_bytes for contents in objects.values())
    summary = dataclasses.replace(reader.finish(), stored_bytes=stored)
    return _filled(ImageReport(name, reader.header, summary, objects=objects), records)


def _read_records(reader: ImageReader) -> list[tuple[str, Record | None]]:
    return [
        (kind, unpack_record(kind, fields) if class_of(kind) else None)
        for kind, fields in reader.for_each_raw_record()
    ]


def _filled(report: ImageReport, records: list[tuple[str, Record | None]]) -> ImageReport:
    for kind, rec in records:
        report.kinds[kind] += 1
        if rec is not None:
            _sort_in(report, kind, rec)
    return report


def _sort_in(report: ImageReport, kind: str, rec: Any) -> None:
    match rec:
        case Image():
            report.image = rec
        case Host():
            report.host = rec
        case Process():
            report.processes[rec.pid] = rec
        case AddressSpace():
            report.spaces[rec.mm_id] = rec
        case SharedMemory():
            report.shared[rec.object_id] = rec
        case Pipe():
            report.pipes[rec.pipe_id] = rec
        case Tree():
            report.trees[rec.tree_id] = rec
        case Inode():
            report.tree_files[rec.tree_id] += rec.mode & _TYPE_MASK == _REGULAR
            if rec.object_id:
                report.tree_of_object[rec.object_id] = rec.tree_id
        case DeletedFile():
            report.deleted[rec.object_id] = rec
        case _ if kind.startswith("file-"):
            report.files[rec.file_id] = rec
            report.kind_of_file[rec.file_id] = kind.removeprefix("file-")


# As JSON


def report_as_json(report: ImageReport) -> dict[str, Any]:
    """The report as one JSON object; sizes in bytes, times in nanoseconds."""
    image, host = report.image, report.host
    summary = dataclasses.asdict(report.summary) | {"root": report.summary.root.hex()}
    return {
        "path": report.path,
        "format": {
            "major": report.header.major,
            "minor": report.header.minor,
            "features": report.header.features,
        },
        "container_id": image.container_id if image else None,
        "created_ns": image.created_ns if image else None,
        "wherry_version": image.wherry_version if image else None,
        "spec": image.spec if image else None,
        "host": _host_json(host) if host else None,
        **summary,
        "ratio": round(report.summary.ratio, 3),
        "processes": [_process_json(report, process) for process in report.processes.values()],
        "memory": [_space_json(report, space) for space in report.spaces.values()],
        "shared_memory": [
            {"object_id": rec.object_id, "size": rec.size} | _sizes(report, rec.object_id)
            for rec in report.shared.values()
        ],
        "files": [
            {"file_id": file_id, "kind": kind, "text": report.file_text(file_id)}
            for file_id, kind in report.kind_of_file.items()
        ],
        "deleted_files": [
            {"path": rec.path, "size": rec.size} | _sizes(report, rec.object_id)
            for rec in report.deleted.values()
        ],
        "trees": [
            {"kind": tree.kind, "path": tree.path, "files": report.tree_files[tree.tree_id]}
            | dataclasses.asdict(report.contents_of_tree(tree.tree_id))
            for tree in report.trees.values()
        ],
        "records_by_kind": dict(sorted(report.kinds.items())),
        "verified": False,
    }


def _host_json(host: Host) -> dict[str, Any]:
    return dataclasses.asdict(host) | {"vdso_digest": host.vdso_digest.hex()}


def _process_json(report: ImageReport, process: Process) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "ppid": process.ppid,
        "pgid": process.pgid,
        "sid": process.sid,
        "comm": _text(process.comm),
        "zombie": process.zombie,
        "stopped": process.stopped,
        "cwd": process.cwd,
        "mm_id": process.mm_id,
        "uids": list(process.threads[0].credentials.uids) if process.threads else [],
        "threads": [{"tid": one.tid, "comm": _text(one.comm)} for one in process.threads],
        "descriptors": [
            {"fd": one.fd, "file_id": one.file_id, "text": report.file_text(one.file_id)}
            for one in process.descriptors
        ],
    }


def _space_json(report: ImageReport, space: AddressSpace) -> dict[str, Any]:
    return {
        "mm_id": space.mm_id,
        "pids": [process.pid for process in report.users_of(space.mm_id)],
        "mappings": len(space.vmas),
        "mapped_bytes": sum(vma.end - vma.start for vma in space.vmas),
    } | _sizes(report, space.mm_id)


def _sizes(report: ImageReport, object_id: int) -> dict[str, int]:
    return dataclasses.asdict(report.contents_of(object_id))


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="surrogateescape")
