"""What memory holds, into tasks that stand still: all of it now, or a part later, by the pager.

It comes from up to three places: chunks of the image, rounds that came before it (`staging`), and
the host that the program comes from, which is asked when it runs.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from formats.elsewhere import elsewhere_in
from formats.records.memory import AddressSpace, SharedMemory
from formats.records.task import Process
from formats.statefile import Chunk
from runtime.engine.api import Progress, RestoreReport
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.image_records import Records
from runtime.engine.ranges import Range, common, size_of, union
from runtime.engine.restore_maps import Owner
from runtime.engine.restore_memory import MemoryWriter
from runtime.engine.restore_stream import ChunkStream, plain_of
from runtime.engine.staging import StagedMemory
from runtime.engine.trees import write_at, write_runs
from runtime.errors import RestoreError
from runtime.kernel.shmem import write_mapped

if TYPE_CHECKING:
    from runtime.engine.lazy.deferral import Deferral
    from runtime.engine.lazy.process import Surroundings
    from runtime.engine.lazy.source import FarSource, PageSource

log = logging.getLogger(__name__)

WORTH_WAITING = 8 << 20
"""Bytes of staged memory; less is copied faster than its coming later is arranged for."""


class ContentRestore:
    """Fills memory.

    Args:
        records: Of the image.
        stream: Its chunks.
        staged: What came in rounds before the image.
        far: Has what the image leaves out.
        report: Told of what was filled.

    Raises:
        RestoreError, ImageError: The image contradicts itself, or what came before it.
    """

    def __init__(
        self,
        records: Records,
        stream: ChunkStream,
        staged: StagedMemory | None,
        far: FarSource | None,
        report: RestoreReport,
    ) -> None:
        self._records = records
        self._stream = stream
        self._staged = None if staged is None else staged.for_image(records)
        self._elsewhere = elsewhere_in(records)
        self._far = far
        self._report = report
        self._written = 0
        if far is not None:
            far.expect(self._elsewhere)
        elif self._elsewhere:
            raise RestoreError(
                "a part of the image is elsewhere, and nobody has it", reason="image-inconsistent"
            )

    def fill_early(self, object_id: int, writer: MemoryWriter) -> None:
        """Put in what was staged of memory that children inherit."""
        if self._staged is not None:
            self._put_staged(object_id, self._staged.runs(object_id), writer)

    def fill(
        self,
        owners: dict[int, Owner],
        files: RestoredFiles,
        channel: socket.socket,
        copy_rest: Callable[[MemoryWriter], None],
        progress: Progress,
        around: Surroundings | None,
    ) -> None:
        """Fill all memory, or have it filled.

        Args:
            owners: Of each address space, by ``mm_id``.
            files: Have the shared memory.
            channel: To the tasks.
            copy_rest: Copies what could not be inherited, when all else is there.
            progress: Told about memory.
            around: For the pager, if memory is to come later; else all of it is there now.
        """
        self._owners, self._channel = owners, channel
        writer = MemoryWriter(
            {mm_id: (owner.space, owner.process.leader.tid) for mm_id, owner in owners.items()}
        )
        put = self._content_writer(files, writer, progress)
        later = self._load_staged(files, writer, lazily=around is not None)
        from_image = around is not None and self._staged is None and self._far is None
        waiting = self._load_chunks(put, lazily=from_image)
        copy_rest(writer)
        if around is not None and waiting:
            self._fill_later(waiting, put, around)
        if later or self._elsewhere:
            assert around is not None  # whoever has a source that is far has room for a pager
            self._fill_behind(later, writer, around)

    # Now

    def _content_writer(
        self, files: RestoredFiles, writer: MemoryWriter, progress: Progress
    ) -> Callable[[Chunk, memoryview], None]:
        """What puts a chunk where it belongs; called in several threads."""
        objects = self._content_files(files)
        huge = {s.object_id for s in self._records.all_of(SharedMemory) if s.huge_page_size}

        def put(chunk: Chunk, data: memoryview) -> None:
            if writer.owns(chunk.object_id):
                writer.write(chunk, data)
            elif chunk.object_id in huge:
                write_mapped(objects[chunk.object_id], chunk.runs, data)
            elif chunk.object_id in objects:
                write_runs(objects[chunk.object_id], chunk, data)
            else:
                raise RestoreError(
                    f"the image holds content of object {chunk.object_id}, which it never names",
                    reason="image-inconsistent",
                )
            self._written += len(data)
            progress("memory", self._written, 0)

        return put

    def _content_files(self, files: RestoredFiles) -> dict[int, int]:
        return {
            s.object_id: files.shared_memory(s.object_id)
            for s in self._records.all_of(SharedMemory)
        }

    def _load_chunks(
        self, put: Callable[[Chunk, memoryview], None], *, lazily: bool
    ) -> list[Chunk]:
        """Put in what the image holds; returns the chunks that may come later."""
        began = time.monotonic_ns()
        waiting: list[Chunk] = []
        if lazily:
            waiting = self._stream.rest_but(put, self._deferral())
        else:
            self._stream.rest(put)
        self._report.memory_bytes += self._stream.early_bytes + self._written
        self._report.memory_ns = time.monotonic_ns() - began
        return waiting

    def _load_staged(
        self, files: RestoredFiles, writer: MemoryWriter, *, lazily: bool
    ) -> dict[int, list[Range]]:
        """Fill in what came in rounds; returns what of it may come later, by address space."""
        if self._staged is None:
            return {}
        for object_id, fd in self._content_files(files).items():

            def put(run: tuple[int, int], data: memoryview, fd: int = fd) -> None:
                write_at(fd, data, run[0])

            runs = self._staged.runs(object_id)
            self._report.memory_bytes += self._staged.for_each(object_id, runs, put)
        split: dict[int, tuple[list[Range], list[Range]]]
        split = {mm_id: ([], list(self._staged.runs(mm_id))) for mm_id in self._owners}
        if lazily:
            deferral = self._deferral()
            split = {mm_id: deferral.split(mm_id, self._staged.runs(mm_id)) for mm_id in split}
            if sum(size_of(later) for later, _ in split.values()) < WORTH_WAITING:
                split = {mm_id: ([], union(*parts)) for mm_id, parts in split.items()}
        for mm_id, (_, now) in split.items():
            self._put_staged(mm_id, now, writer)
        return {mm_id: later for mm_id, (later, _) in split.items() if later}

    def _put_staged(self, object_id: int, runs: Sequence[Range], writer: MemoryWriter) -> None:
        assert self._staged is not None
        put = partial(writer.put, object_id)
        self._report.memory_bytes += self._staged.for_each(object_id, runs, put)

    # Later

    def _deferral(self) -> Deferral:
        from runtime.engine.lazy.deferral import Deferral

        spaces = {space.mm_id: space for space in self._records.all_of(AddressSpace)}
        return Deferral(spaces, self._records.all_of(Process))

    def _register(self, mm_id: int, runs: Sequence[Range]) -> int | None:
        """Have an address space wait; its userfaultfd, or None where there cannot be one."""
        from runtime.engine.lazy.deferral import register_space

        owner = self._owners[mm_id]
        fd = register_space(owner.process.leader, self._channel, owner.space, runs)
        if fd is not None:
            self._report.later_bytes += size_of(runs)
        return fd

    def _fill_later(
        self,
        waiting: Iterable[Chunk],
        put: Callable[[Chunk, memoryview], None],
        around: Surroundings,
    ) -> None:
        """Have the pager fill what may come later, from now on."""
        from runtime.engine.lazy.image_source import ImageSource
        from runtime.engine.lazy.process import start_pager

        source = ImageSource(waiting, fds=around.fds)
        served: list[tuple[int, int]] = []
        for mm_id in source.objects():
            fd = self._register(mm_id, source.runs(mm_id))
            if fd is not None:
                served.append((fd, mm_id))
                continue
            self._cannot_wait(mm_id)
            for chunk in waiting:
                if chunk.object_id == mm_id:
                    put(chunk, plain_of(chunk))
        if served:
            start_pager(source, served, around)

    def _fill_behind(
        self, staged: dict[int, list[Range]], writer: MemoryWriter, around: Surroundings
    ) -> None:
        """Have the pager fill in what came in rounds, and what is elsewhere, from now on."""
        from runtime.engine.lazy.process import start_pager

        if self._elsewhere:
            self._check_elsewhere()
        served: list[tuple[int, int]] = []
        for mm_id in self._owners:
            here, there = staged.get(mm_id, []), self._elsewhere.get(mm_id, [])
            if not (here or there):
                continue
            fd = self._register(mm_id, union(here, there))
            if fd is not None:
                served.append((fd, mm_id))
            elif there:
                raise RestoreError(
                    f"{self._name(mm_id)}: its memory cannot come later (userfaultfd)",
                    reason="no-userfaultfd",
                )
            else:
                self._cannot_wait(mm_id)
                self._put_staged(mm_id, staged.pop(mm_id), writer)
        if served:
            start_pager(self._source_of(staged), served, around)

    def _source_of(self, staged: dict[int, list[Range]]) -> PageSource:
        """Where the pager finds what came in rounds, and what is elsewhere."""
        if not staged:
            assert self._far is not None
            return self._far
        assert self._staged is not None
        near = self._staged.only(staged)
        if not self._elsewhere:
            return near
        from runtime.engine.lazy.joined import JoinedSource

        assert self._far is not None
        return JoinedSource(near, self._far)

    def _check_elsewhere(self) -> None:
        """What is elsewhere must be able to wait, and must not be here as well."""
        deferral = self._deferral()
        for mm_id, runs in self._elsewhere.items():
            here = () if self._staged is None else self._staged.runs(mm_id)
            if mm_id not in self._owners or deferral.split(mm_id, runs)[1] or common(here, runs):
                raise RestoreError(
                    f"memory of object {mm_id} is elsewhere that must be here",
                    reason="image-inconsistent",
                )

    def _cannot_wait(self, mm_id: int) -> None:
        log.warning("%s: its memory cannot come later", self._name(mm_id))

    def _name(self, mm_id: int) -> str:
        return f"pid {self._owners[mm_id].process.record.pid}"
