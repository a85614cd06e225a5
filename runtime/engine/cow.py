"""Pages that a child still shares with its parent since the fork: found, and shared again.

Such pages are stored once, with the parent. A restore maps and fills the parent's private memory
before the parent makes its children, so they inherit it as they did in their first life; then each
drops what is not shared and gets what is its own. What a child cannot inherit after all, because
another task has to make it, is copied.

Private mappings of files belong to it only if the file lies on the container's root file system:
other mounts do not exist yet when the tree grows.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from formats.records.memory import AddressSpace, Backing, Vma
from formats.records.task import Process
from formats.statefile import Chunk
from runtime.engine.dump_memory import private_runs
from runtime.engine.mappings import MAP_LOCKED, MAP_PRIVATE
from runtime.engine.new_task import NewTask
from runtime.engine.ranges import PageRun, Range, gaps, intersection, union, without
from runtime.engine.remote import Batch
from runtime.engine.restore_memory import MemoryWriter, first_protection, map_part, name_vma
from runtime.errors import RestoreError
from runtime.kernel import pagemap

SAVED = (("memory", "pages shared since a fork are stored once and shared again"),)

MADV_DONTNEED = 4
MADV_DONTFORK, MADV_WIPEONFORK = 10, 18
_COPY_SIZE = 4 << 20


def is_early(space: AddressSpace, vma: Vma) -> bool:
    """Whether a mapping is made before the process makes children, if it has any that share."""
    if vma.backing is Backing.ANONYMOUS:
        return bool(vma.flags & MAP_PRIVATE) and not vma.huge_page_size
    return bool(vma.flags & MAP_PRIVATE) and vma.object_id in space.early_files


def _inheritable(space: AddressSpace) -> list[Vma]:
    unfit = {MADV_DONTFORK, MADV_WIPEONFORK}
    return [vma for vma in space.vmas if is_early(space, vma) and not unfit & set(vma.advice)]


def _alike(a: Vma, b: Vma) -> bool:
    """Whether two mappings differ in nothing but what can be changed afterwards."""
    return (
        a.flags & ~MAP_LOCKED == b.flags & ~MAP_LOCKED
        and a.accounted == b.accounted
        and a.advice == b.advice
        and a.object_id == b.object_id
        and (a.object_id == 0 or a.offset - a.start == b.offset - b.start)
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
        resident: About how many bytes of private memory it has.
        related: Whether another process has come from the same exec, so that it may share pages.
        staged: What of it need not be stored, since it was staged in rounds before.
    """

    pid: int
    parent: int
    space: AddressSpace
    resident: int
    related: bool = False
    staged: list[Range] = dataclasses.field(default_factory=list)
    _runs: list[PageRun] | None = None

    @property
    def runs(self) -> list[PageRun]:
        """Its private pages, looked for at the first call."""
        if self._runs is None:
            self._runs = list(private_runs(self.pid, self.space))
        return self._runs

    @property
    def ancestry(self) -> tuple[int, int, int]:
        """The same for all that have come from one exec; places are random for each."""
        layout = self.space.layout
        return layout.start_stack, layout.start_code, self.space.exe_file_id

    def own(self, *, early: bool = False) -> Iterator[PageRun]:
        """The pages to store: ahead of everything else, or with the rest."""
        if self.staged and self.shares_nothing:
            return iter(()) if early else private_runs(self.pid, self.space, but=self.staged)
        return without(self._own(early=early), self.staged)

    def own_staged(self, *, early: bool = False) -> list[Range]:
        """The pages that `own` would give, had they not been staged."""
        if not self.staged:
            return []
        if self.shares_nothing:
            return [] if early else self.staged
        staged = intersection(self._own(early=early), self.staged)
        return union([(start, end) for start, end, _ in staged], [])

    def left(self) -> list[Range]:
        """Its private pages that were not staged, shared ones too."""
        if self.shares_nothing:
            runs: Iterable[PageRun] = private_runs(self.pid, self.space, but=self.staged)
        else:
            runs = without(self.runs, self.staged)
        return union([(start, end) for start, end, _ in runs], [])

    @property
    def shares_nothing(self) -> bool:
        """Whether it has no page in common with another process since a fork."""
        return not (self.space.early_id or self.space.shared)

    def _own(self, *, early: bool) -> Iterator[PageRun]:
        runs = self._unshared(self.runs)
        if not self.space.early_id:
            return iter(()) if early else runs
        ahead = [(vma.start, vma.end) for vma in self.space.vmas if is_early(self.space, vma)]
        return intersection(runs, ahead) if early else without(runs, ahead)

    def own_within(self, parts: Sequence[Range]) -> Iterator[PageRun]:
        """The pages to store with the rest that lie in *parts*."""
        if self._runs is None:
            return private_runs(self.pid, self.space, parts)
        return intersection(self.own(), parts)

    def own_of(self, task: int) -> Iterator[PageRun]:
        """The pages to store with the rest, looked for in the process or in a fork of it."""
        if self._runs is None and task != self.pid:
            return private_runs(task, self.space)
        return self.own()

    def _unshared(self, runs: Iterable[PageRun]) -> Iterator[PageRun]:
        return without(runs, [(start, start + size) for start, size in self.space.shared])


def share_pages(
    all_pages: Sequence[Pages],
    new_id: Callable[[], int],
    files_on_root: Callable[[Pages], Iterable[int]],
) -> None:
    """Find what each process shares with its parent, and say so in the records.

    Args:
        all_pages: Of every process.
        new_id: Gives out object ids.
        files_on_root: The file records of an address space that lie on the root file system.
    """
    by_pid = {pages.pid: pages for pages in all_pages}
    families = Counter(pages.ancestry for pages in all_pages)
    for pages in all_pages:
        pages.related = families[pages.ancestry] > 1
        if pages.related:
            on_root = tuple(sorted(files_on_root(pages)))
            pages.space = dataclasses.replace(pages.space, early_files=on_root)
    for pages in all_pages:
        parent = by_pid.get(pages.parent)
        if parent is None or parent.ancestry != pages.ancestry:
            continue
        common = [(start, end) for start, end, _, _ in common_parts(pages.space, parent.space)]
        held = ((start, end) for start, end, _ in intersection(pages.runs, common))
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


# Restore


class Inheritance:
    """Gives the tasks of a growing tree the memory that they share.

    Args:
        spaces: By ``mm_id``.
        chunks_of: The chunks of an early object.
        clear: Unmaps everything that a task has inherited.
        open_files: Gives a task descriptors for file records; the caller closes them there.
        fill_staged: Puts what was staged of an early object in.
    """

    def __init__(
        self,
        spaces: dict[int, AddressSpace],
        chunks_of: Callable[[int], Iterable[Chunk]],
        clear: Callable[[NewTask], None],
        open_files: Callable[[NewTask, Iterable[int]], dict[int, int]],
        fill_staged: Callable[[int, MemoryWriter], None] = lambda object_id, writer: None,
    ) -> None:
        self._spaces = spaces
        self._chunks_of = chunks_of
        self._clear = clear
        self._open_files = open_files
        self._fill_staged = fill_staged
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
        self._map_rest(task, space, kept)
        self.mapped.add(space.mm_id)
        task.memory = space.mm_id
        if space.early_id:
            writer = MemoryWriter({space.early_id: (space, task.tid)})
            self._fill_staged(space.early_id, writer)
            for chunk in self._chunks_of(space.early_id):
                writer.write(chunk, memoryview(bytearray(chunk.unpack())))

    def _map_rest(self, task: NewTask, space: AddressSpace, kept: Sequence[Range]) -> None:
        missing = [
            (vma, start, end)
            for vma in space.vmas
            if is_early(space, vma)
            for start, end in gaps([(vma.start, vma.end)], kept)
        ]
        numbers = self._open_files(task, {vma.object_id for vma, _, _ in missing} - {0})
        batch = Batch()
        for vma, start, end in missing:
            batch = _room(task, batch)
            map_part(batch, vma, start, end, numbers.get(vma.object_id))
        for number in numbers.values():
            batch = _room(task, batch)
            batch.call("close", number)
        if len(batch):
            task.do(batch)

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
        if is_early(parent, vma) and MADV_DONTFORK not in vma.advice
    ]
    for start, end in gaps(born_with, kept):
        batch = _room(task, batch)
        batch.call("munmap", start, end - start)
    shared = [(start, start + size) for start, size in space.shared]
    for start, end in gaps(kept, shared):
        batch = _room(task, batch)
        batch.call("madvise", start, end - start, MADV_DONTNEED)
    for start, end, ours, theirs in parts:
        batch = _room(task, batch)
        if first_protection(ours) != first_protection(theirs):
            batch.call("mprotect", start, end - start, first_protection(ours))
        if ours.name != theirs.name and ours.backing is Backing.ANONYMOUS:
            name_vma(batch, start, end - start, ours.name)
    if len(batch):
        task.do(batch)
    return kept


def _room(task: NewTask, batch: Batch) -> Batch:
    if not batch.full:
        return batch
    task.do(batch)
    return Batch()
