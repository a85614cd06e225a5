"""What was found goes into the image, and memory is kept for a program that goes on."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from formats.records.files import DeletedFile
from formats.records.image import Image
from formats.statefile import ImageWriter
from runtime.engine import dump_memory
from runtime.engine.api import Progress
from runtime.engine.cow import Pages, by_birth
from runtime.engine.files.table import open_again
from runtime.engine.findings import Findings
from runtime.engine.ranges import PageRun, Range, common, gaps, size_of, without
from runtime.engine.trees import write_tree
from runtime.engine.twins import WORTHWHILE, Twins, have_room, left_behind
from runtime.version import VERSION

if TYPE_CHECKING:
    from runtime.engine.incremental import Part

WORTHWHILE_FOR_REST = 24 << 20
"""Bytes left to read of memory that was read ahead, from which on a fork takes less time."""


class Contents:
    """Writes what was found.

    Args:
        found: Everything.
        writer: Where it goes.
        progress: Told of memory.
    """

    def __init__(self, found: Findings, writer: ImageWriter, progress: Progress) -> None:
        self._found = found
        self._writer = writer
        self._progress = progress
        self._twins = Twins(found.context)
        self._done = self._total = 0  # bytes of memory
        self._left: list[tuple[Pages, int]] = []  # with the task to read from
        self._left_of_parts: list[tuple[Part, int, list[Range]]] = []  # the same

    def write_still(self) -> None:
        """Put all records into the image, and all contents but most of the private memory."""
        target = self._found.target
        self._writer.add_record(
            Image(
                container_id=target.container_id,
                created_ns=time.time_ns(),
                wherry_version=VERSION,
                spec=target.spec,
                metadata=target.metadata,
            )
        )
        self._writer.add_record(self._found.host)
        for record in self._found.records:
            self._writer.add_record(record)
        for tree in self._found.trees:
            self._writer.add_record(tree.tree)
            for inode in tree.inodes:
                self._writer.add_record(inode)
        for deleted, _ in self._found.files.deleted.values():
            self._writer.add_record(deleted)
        for shared, _ in self._found.files.shared.values():
            self._writer.add_record(shared)
        for file in self._found.files.records:
            self._writer.add_record(file)
        for pages in self._found.spaces:
            self._writer.add_record(pages.space)
        for process in self._found.processes:
            self._writer.add_record(process)
        for record in self._found.staged:
            self._writer.add_record(record)
        self._write_contents()

    def _write_contents(self) -> None:
        self._total = self._memory_size()
        for tree in self._found.trees:
            if tree.tree.kind == "overlay":  # needed before there is any process
                write_tree(self._writer, tree)
        for pages in by_birth(self._found.spaces):
            if pages.space.early_id:
                runs, early_id = pages.own(early=True), pages.space.early_id
                self._write_pages(early_id, pages.pid, runs, pages.related)
        for tree in self._found.trees:
            if tree.tree.kind != "overlay":
                write_tree(self._writer, tree)
        for deleted, path in self._found.files.deleted.values():
            if stat.S_ISREG(deleted.mode) and not deleted.other_name:
                self._write_file(deleted, path)
        self._progress("memory", self._done, self._total)
        for shared, path in self._found.files.shared.values():
            fd = open_again(path)
            try:
                kept = self._found.kept.get(shared.object_id, ())
                self._done += dump_memory.write_shared_memory(self._writer, shared, fd, kept)
            finally:
                os.close(fd)
            self._progress("memory", self._done, self._total)
        self._left = [(pages, pages.pid) for pages in self._found.spaces]

    def keep_memory(self) -> None:
        """Have the private memory kept as it is, or write it at once: the program is to go on."""
        self._left.clear()
        wanted = [pages.pid for pages in self._found.spaces if self._deserves_twin(pages)]
        twins: dict[int, int | None] = {}
        # There must be room for what the program writes to before its memory is stored.
        if wanted and have_room(self._found.target.cgroups, self._total):
            with self._twins.numbered_apart(self._found.records):
                twins = {pid: self._twins.make(self._found.context.live[pid]) for pid in wanted}
        for pages in self._found.spaces:
            twin = twins.get(pages.pid)
            apart = left_behind(pages.space)
            part = self._found.parts.get(pages.space.mm_id)
            if part is not None:
                self._keep_part(pages, part, twin, apart)
                continue
            now = pages.own() if twin is None else pages.own_within(apart)
            self._write_pages(pages.space.mm_id, pages.pid, now, gently=pages.related)
            if twin is not None:
                self._left.append((pages, twin))
        self._writer.drain()
        if self._found.incremental is not None:
            self._found.incremental.arm(self._found.parts.values())

    def _keep_part(self, pages: Pages, part: Part, twin: int | None, apart: list[Range]) -> None:
        assert self._found.incremental is not None
        now = part.rest
        if twin is not None:
            now = common(part.rest, self._found.incremental.pieces_around(apart))
            self._left_of_parts.append((part, twin, list(gaps(part.rest, now))))
        self._found.incremental.read(part, pages.pid, now)

    def _deserves_twin(self, pages: Pages) -> bool:
        own = self._found.scopes.of(pages.pid)
        if own.pid_for_children or own.time_for_children:
            return False  # it would be the first in a namespace, and its end that of the namespace
        part = self._found.parts.get(pages.space.mm_id)
        if part is not None:
            return part.rest_bytes >= WORTHWHILE_FOR_REST
        return pages.resident >= WORTHWHILE

    def end_twins(self) -> None:
        """Remove the twins, when the program goes on."""
        self._found.frozen.close()
        self._twins.end(self._found.target.cgroups)

    def write_memory(self) -> None:
        """Put the rest of the private memory into the image."""
        for pages, pid in self._left:
            is_twin = pid != pages.pid
            apart = left_behind(pages.space) if is_twin else []
            runs = without(pages.own_of(pid), apart)
            # To read a twin in the quick way would give it pages of its own.
            gently = pages.related or is_twin
            self._write_pages(pages.space.mm_id, pid, runs, gently)
        if self._found.incremental is not None:
            for part, twin, runs_left in self._left_of_parts:
                self._found.incremental.read(part, twin, runs_left)
            for mm_id, part in self._found.parts.items():
                self._done += self._found.incremental.add(part, mm_id)
                self._found.report.ahead_bytes += size_of(part.kept)
                self._progress("memory", self._done, self._total)
        self._found.report.memory_bytes = self._done

    def _write_pages(self, object_id: int, pid: int, runs: Iterable[PageRun], gently: bool) -> None:
        base = self._done
        write = dump_memory.write_private_pages
        for added in write(self._writer, object_id, pid, runs, gently=gently):
            self._done = base + added
            self._progress("memory", self._done, self._total)

    def _write_file(self, deleted: DeletedFile, path: str) -> None:
        fd = open_again(path)
        try:
            dump_memory.write_file_pages(self._writer, deleted.object_id, fd, deleted.size)
        finally:
            os.close(fd)

    def _memory_size(self) -> int:
        """How many bytes of memory there are to write at most, for a progress bar."""
        private = sum(pages.resident for pages in self._found.spaces)
        return private + sum(shared.size for shared, _ in self._found.files.shared.values())
