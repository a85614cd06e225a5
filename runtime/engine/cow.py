"""Pages that a child still shares with its parent since the fork: found, and shared again.

Such pages are stored once, with the parent. A restore maps and fills the parent's anonymous
memory before the parent makes its children, so they inherit it as they did in their first life;
then each drops what is not shared and gets what is its own. What a child cannot inherit after all,
because another task has to make it, is copied.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from formats.records.memory import AddressSpace, Backing, Vma
from formats.records.task import Process
from formats.statefile import Chunk
from runtime.engine.dump_memory import PageRun
from runtime.engine.mappings import MAP_LOCKED, MAP_PRIVATE
from runtime.engine.new_task import NewTask
from runtime.engine.remote import Batch
from runtime.engine.restore_memory import MemoryWriter, first_protection, map_anonymous, name_vma
from runtime.errors import RestoreError
from runtime.kernel import pagemap

SAVED = (("memory", "pages shared since a fork are stored once and shared again"),)

MADV_DONTNEED = 4
MADV_DONTFORK, MADV_WIPEONFORK = 10, 18
_COPY_SIZE = 4 << 20

Range = tuple[int, int]  # start and end, byte addresses


def _inheritable(space: AddressSpace) -> list[Vma]:
    return [
        vma
        for vma in space.vmas
        if vma.backing is Backing.ANONYMOUS
        and vma.flags & MAP_PRIVATE
        and not {MADV_DONTFORK, MADV_WIPEONFORK} & set(vma.advice)
    ]


def _alike(a: Vma, b: Vma) -> bool:
    """Whether two mappings differ in nothing but what can be changed afterwards."""
    return (
        a.flags & ~MAP_LOCKED == b.flags & ~MAP_LOCKED
        and a.accounted == b.accounted
        and a.advice == b.advice
    )


def common_parts(ours: AddressSpace, theirs: AddressSpace) -> Iterator[tuple[int, int, Vma, Vma]]:
    """(start, end, our mapping, their mapping) wherever both have the same kind of memory."""
    left, right = iter(_inheritable(ours)), iter(_inheritable(theirs))
    a, b = next(left, None), next(right, None)
    while a is not None and b is not None:
        start, end = max(a.start, b.start), min(a.end, b.end)
        if start < end and _alike(a, b):
            yield start, end, a, b
        if a.end <= b.end:
            a = next(left, None)
        else:
            b = next(right, None)


# Dump


@dataclasses.dataclass(slots=True)
class Pages:
    """An address space on its way into an image.

    Attributes:
        pid: A stopped process that has it.
        parent: The process that this one was forked from, or 0.
        space: Its record.
        runs: Its private pages.
        related: Whether another process has come from the same exec, so that it may share pages.
    """

    pid: int
    parent: int
    space: AddressSpace
    runs: list[PageRun]
    related: bool = False

    @property
    def ancestry(self) -> tuple[int, int, int]:
        """The same for all that have come from one exec; places are random for each."""
        layout = self.space.layout
        return layout.start_stack, layout.start_code, self.space.exe_file_id

    def own(self, *, early: bool) -> Iterator[PageRun]:
        """The pages to store: ahead of everything else, or with the rest."""
        split = self.space.early_id != 0
        wanted = (run for run in self.runs if early == (split and run[3]))
        return _without(wanted, [(start, start + size) for start, size in self.space.shared])


def share_pages(all_pages: Sequence[Pages], new_id: Callable[[], int]) -> None:
    """Find what each process shares with its parent, and say so in the records."""
    by_pid = {pages.pid: pages for pages in all_pages}
    families = Counter(pages.ancestry for pages in all_pages)
    for pages in all_pages:
        pages.related = families[pages.ancestry] > 1
        parent = by_pid.get(pages.parent)
        if parent is None or parent.ancestry != pages.ancestry:
            continue
        common = [(start, end) for start, end, _, _ in common_parts(pages.space, parent.space)]
        held = _intersection(((run[0], run[1]) for run in pages.runs if run[3]), common)
        shared = tuple(
            (start, end - start) for start, end in pagemap.shared_runs(pages.pid, parent.pid, held)
        )
        if shared:
            pages.space = dataclasses.replace(
                pages.space, parent_mm_id=parent.space.mm_id, shared=shared
            )
            if not parent.space.early_id:
                parent.space = dataclasses.replace(parent.space, early_id=new_id())


def by_birth(all_pages: Sequence[Pages]) -> Iterator[Pages]:
    """Parents before their children, and a child's whole family before the next child."""
    children: dict[int, list[Pages]] = {}
    known = {pages.pid for pages in all_pages}
    for pages in all_pages:
        children.setdefault(pages.parent if pages.parent in known else 0, []).append(pages)
    waiting = list(reversed(children.get(0, [])))
    while waiting:
        pages = waiting.pop()
        yield pages
        waiting += reversed(children.get(pages.pid, []))


def _intersection(runs: Iterable[Range], parts: Sequence[Range]) -> Iterator[Range]:
    """Both ascending."""
    index = 0
    for start, end in runs:
        while index < len(parts) and parts[index][1] <= start:
            index += 1
        at = index
        while at < len(parts) and parts[at][0] < end:
            yield max(start, parts[at][0]), min(end, parts[at][1])
            at += 1


def _without(runs: Iterable[PageRun], holes: Sequence[Range]) -> Iterator[PageRun]:
    """Runs without what lies in *holes*; both ascending."""
    index = 0
    for first, end, readable, anonymous in runs:
        start = first
        while index < len(holes) and holes[index][1] <= start:
            index += 1
        at = index
        while at < len(holes) and holes[at][0] < end:
            if start < holes[at][0]:
                yield start, holes[at][0], readable, anonymous
            start = max(start, holes[at][1])
            at += 1
        if start < end:
            yield start, end, readable, anonymous


# Restore


class Inheritance:
    """Gives the tasks of a growing tree the memory that they share.

    Args:
        spaces: By ``mm_id``.
        chunks_of: The chunks of an early object.
        clear: Unmaps everything that a task has inherited.
    """

    def __init__(
        self,
        spaces: dict[int, AddressSpace],
        chunks_of: Callable[[int], Iterable[Chunk]],
        clear: Callable[[NewTask], None],
    ) -> None:
        self._spaces = spaces
        self._chunks_of = chunks_of
        self._clear = clear
        self._to_copy: list[AddressSpace] = []
        self.mapped: set[int] = set()

    def prepare(self, record: Process, task: NewTask) -> None:
        """Called when a process exists, before it makes a child."""
        space = self._spaces.get(record.mm_id)
        born_with, task.memory = task.memory, 0
        if record.zombie or space is None or space.mm_id in self.mapped:
            task.memory = born_with
            return
        inherits = born_with != 0 and born_with == space.parent_mm_id
        if born_with and not inherits:
            self._clear(task)
        if space.parent_mm_id and not inherits:
            self._to_copy.append(space)
        if not inherits and not space.early_id:
            return
        kept = _keep(task, space, self._spaces[born_with]) if inherits else []
        _map_rest(task, space, kept)
        self.mapped.add(space.mm_id)
        task.memory = space.mm_id
        if space.early_id:
            writer = MemoryWriter({space.early_id: (space, task.pid)})
            for chunk in self._chunks_of(space.early_id):
                writer.write(chunk, memoryview(bytearray(chunk.unpack())))

    def copy_rest(self, writer: MemoryWriter) -> None:
        """Copy what could not be inherited; when all contents are in place."""
        for space in self._to_copy:
            if space.parent_mm_id not in self._spaces:
                raise RestoreError(
                    f"address space {space.mm_id} shares pages with {space.parent_mm_id}, which "
                    "the image lacks",
                    reason="image-inconsistent",
                )
            for start, size in space.shared:
                for at in range(start, start + size, _COPY_SIZE):
                    runs = [(at, min(_COPY_SIZE, start + size - at))]
                    writer.copy(space.parent_mm_id, space.mm_id, runs)


def _keep(task: NewTask, space: AddressSpace, parent: AddressSpace) -> list[Range]:
    """Reduce what the task was born with to what it shares; returns the mappings that stay."""
    parts = list(common_parts(space, parent))
    kept = [(start, end) for start, end, _, _ in parts]
    batch = Batch()
    born_with = [
        (vma.start, vma.end)
        for vma in parent.vmas
        if vma.backing is Backing.ANONYMOUS and MADV_DONTFORK not in vma.advice
    ]
    for start, end in _gaps(born_with, kept):
        batch = _room(task, batch)
        batch.call("munmap", start, end - start)
    shared = [(start, start + size) for start, size in space.shared]
    for start, end in _gaps(kept, shared):
        batch = _room(task, batch)
        batch.call("madvise", start, end - start, MADV_DONTNEED)
    for start, end, ours, theirs in parts:
        batch = _room(task, batch)
        if first_protection(ours) != first_protection(theirs):
            batch.call("mprotect", start, end - start, first_protection(ours))
        if ours.name != theirs.name:
            name_vma(batch, start, end - start, ours.name)
    if len(batch):
        task.do(batch)
    return kept


def _map_rest(task: NewTask, space: AddressSpace, kept: Sequence[Range]) -> None:
    batch = Batch()
    for vma in space.vmas:
        if vma.backing is Backing.ANONYMOUS:
            for start, end in _gaps([(vma.start, vma.end)], kept):
                batch = _room(task, batch)
                map_anonymous(batch, vma, start, end)
    if len(batch):
        task.do(batch)


def _room(task: NewTask, batch: Batch) -> Batch:
    if not batch.full:
        return batch
    task.do(batch)
    return Batch()


def _gaps(ranges: Iterable[Range], taken: Sequence[Range]) -> Iterator[Range]:
    """What is left of *ranges* without *taken*; both ascending and disjoint."""
    for start, end, _, _ in _without(((low, high, True, True) for low, high in ranges), taken):
        yield start, end
