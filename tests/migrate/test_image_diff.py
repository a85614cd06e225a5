"""What two images differ in."""

from __future__ import annotations

import dataclasses
from typing import Any

from formats.chunks import ChunkMeta
from formats.records.codec import Record
from formats.records.files import Inode, RegularFile, Tree
from formats.records.memory import AddressSpace, Backing, Layout, SharedMemory, Vma
from formats.records.task import Descriptor, Process
from migrate.image_diff import FileChange, MemoryChange, TaskChange, diff, gather
from tests.migrate.cli.test_image import thread

MIB = 1 << 20
HEAP, LIBRARY, SHARED = 16 * MIB, 64 * MIB, 128 * MIB
LAYOUT = dataclasses.replace(Layout(*[0] * 11), start_brk=HEAP, brk=HEAP + 4 * MIB)
VMAS = (
    Vma(HEAP, HEAP + 4 * MIB, 3, 2, Backing.ANONYMOUS),
    Vma(LIBRARY, LIBRARY + MIB, 3, 2, Backing.FILE, object_id=9),
    Vma(SHARED, SHARED + MIB, 3, 1, Backing.SHARED, object_id=40, offset=MIB),
)


def process(pid: int = 1, **rest: Any) -> Process:
    fields: dict[str, Any] = {"mm_id": 100, "threads": (thread(pid),)}
    return Process(pid, 0, 1, 1, 17, False, 0, b"job", **(fields | rest))


def records(*more: Record, vmas: tuple[Vma, ...] = VMAS) -> list[Record]:
    return [
        RegularFile(9, "/lib/libx.so", 0, 0, "file"),
        SharedMemory(40, 2 * MIB),
        AddressSpace(100, LAYOUT, b"", 9, vmas),
        *(more or (process(),)),
    ]


def page(address: int, content: bytes, *, of: int = 100, count: int = 1) -> ChunkMeta:
    return ChunkMeta(of, address - address % MIB, ((address, 4096 * count),), content * 32)


PAGES = [page(HEAP, b"a"), page(HEAP + MIB, b"b"), page(LIBRARY, b"c"), page(MIB, b"d", of=40)]


def test_an_image_does_not_differ_from_itself() -> None:
    found = diff(gather(records(), PAGES), gather(records(), PAGES))
    assert (found.tasks, found.files, found.memory) == ((), (), ())


def test_memory_by_mapping() -> None:
    changed = [
        page(HEAP, b"a"),
        page(HEAP + MIB, b"B", count=3),
        page(LIBRARY, b"c"),
        page(MIB, b"D", of=40),
    ]
    found = diff(gather(records(), PAGES), gather(records(), changed))
    assert found.memory == (
        MemoryChange(1, HEAP, HEAP + 4 * MIB, "[heap]", "changed", 3 * 4096),
        MemoryChange(1, SHARED, SHARED + MIB, "[shared]", "changed", 4096),
    )


def test_mappings_that_come_and_go() -> None:
    found = diff(
        gather(records(vmas=VMAS[:2]), PAGES),
        gather(records(vmas=VMAS[::2]), PAGES[:2] + PAGES[3:]),
    )
    assert [(one.name, one.change, one.changed_bytes) for one in found.memory] == [
        ("[shared]", "added", 4096),
        ("/lib/libx.so", "removed", 4096),
    ]


def test_tasks() -> None:
    before = records(process(), process(5, mm_id=101))
    after = records(
        process(threads=(thread(1), thread(3)), cwd="/tmp", descriptors=(Descriptor(4, 9, False),)),
        process(7, mm_id=102),
    )
    assert diff(gather(before, ()), gather(after, ())).tasks == (
        TaskChange(
            1, "job", "changed", ("cwd / -> /tmp", "thread 3 is new", "fd 4 is new: /lib/libx.so")
        ),
        TaskChange(5, "job", "removed"),
        TaskChange(7, "job", "added"),
    )


def test_files() -> None:
    def tree(*inodes: Inode) -> list[Record]:
        return [Tree(50, "overlay", "/"), *inodes]

    def inode(path: str, **rest: Any) -> Inode:
        return Inode(50, path, 0o100644, 0, 0, rest.pop("mtime_ns", 0), **rest)

    before = tree(inode("var/a", size=5, object_id=60), inode("var/b"), inode("var/c", mtime_ns=1))
    after = tree(inode("var/a", size=5, object_id=61), inode("var/c", mtime_ns=2), inode("var/d"))
    found = diff(gather(before, [page(0, b"x", of=60)]), gather(after, [page(0, b"y", of=61)]))
    assert found.files == (
        FileChange("/var/a", "changed", 5, 5),
        FileChange("/var/b", "removed", 0, None),
        FileChange("/var/d", "added", None, 0),
    )
