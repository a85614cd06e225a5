"""Restore: an image into a fresh sandbox, whose init waits to become the first stub.

The order is: records; the overlay's files, before the sandbox mounts them (`Restore.fill_overlay`);
then, with the sandbox built around its init, process tree, files, mappings, contents, and at last
everything that takes privileges away or starts a clock (`Restore.build`). All tasks are held by
ptrace until `Restore.release`; should the restorer die before, the kernel kills them.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from formats.elsewhere import elsewhere_in
from formats.records.cgroups import Cgroup, CgroupNamespace
from formats.records.codec import Record
from formats.records.files import Inode, Tree
from formats.records.image import Host, Image
from formats.records.memory import AddressSpace, SharedMemory, Vma
from formats.records.sandbox import Namespace, TimeNamespace, UserNamespace
from formats.records.task import Process
from formats.statefile import Chunk, ImageReader
from runtime.engine import restore_threads
from runtime.engine.aio import restore_rings
from runtime.engine.api import (
    Freezer,
    Init,
    Progress,
    RestoreOptions,
    RestoreReport,
    no_progress,
)
from runtime.engine.attachments import attach_segments
from runtime.engine.cgroup_tree import CgroupHomes, CgroupRestore
from runtime.engine.corpses import end_zombie
from runtime.engine.cow import Inheritance, is_early
from runtime.engine.files.flags import restore_flags
from runtime.engine.files.kind import Kind, load_kinds
from runtime.engine.files.mounts import open_inside
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.hold_peers import hold_peers
from runtime.engine.host_facts import clock_shift, clock_since, compare_hosts
from runtime.engine.image_records import Records
from runtime.engine.inode_numbers import Ext4Numbers, TmpfsNumbers
from runtime.engine.install_files import (
    give,
    key_of,
    mapped_file,
    open_for_mapping,
    tables_of,
)
from runtime.engine.mounts.sources import open_root
from runtime.engine.new_namespaces import NewNamespaces
from runtime.engine.new_task import NewTask, adopt
from runtime.engine.placement import Placement, taken_ids
from runtime.engine.ranges import Range, size_of, union
from runtime.engine.remote import Batch, CallFailedError
from runtime.engine.restore_end import Completion
from runtime.engine.restore_memory import (
    MemoryWriter,
    common_hole,
    finish_address_space,
    map_address_space,
)
from runtime.engine.restore_stream import ChunkStream, plain_of
from runtime.engine.restore_threads import RestoredProcess
from runtime.engine.restore_tree import INIT, ProcessTree, end_task
from runtime.engine.sandbox.kind import Place, SandboxKind, load_sandbox_kinds
from runtime.engine.staging import StagedMemory, StagedSource
from runtime.engine.terminal_restore import RestoredTerminals
from runtime.engine.trees import TreeRestore, write_at, write_runs
from runtime.errors import RefusedError, RestoreError
from runtime.kernel import proc_task
from runtime.kernel.fsids import making_files_as
from runtime.kernel.mountinfo import read_mounts
from runtime.kernel.nft import PacketLock
from runtime.kernel.shmem import write_mapped

if TYPE_CHECKING:
    from runtime.engine.lazy.process import Surroundings
    from runtime.engine.lazy.source import FarSource

log = logging.getLogger(__name__)

R = TypeVar("R")
WORTH_WAITING = 8 << 20
"""Bytes of staged memory; less is copied faster than its coming later is arranged for."""
Stdio = tuple[int, int, int]


class Restore:
    """One restore under way.

    Args:
        reader: The image, at its start; a file or a stream.
        container_id: Of the new container, for messages.
        options: What the caller gives or allows.
        staged: What came in rounds before the image.
        far: Has what the image leaves out.

    Attributes:
        image: The image's first record: configuration and metadata.
        report: What has been done so far.
    """

    def __init__(
        self,
        reader: ImageReader,
        container_id: str,
        options: RestoreOptions | None = None,
        staged: StagedMemory | None = None,
        far: FarSource | None = None,
    ) -> None:
        self._cid = container_id
        self._options = options or RestoreOptions()
        self._records = Records(reader.records())
        self._stream = ChunkStream(reader)
        self._staged = None if staged is None else staged.for_image(self._records)
        self._elsewhere = elsewhere_in(self._records)
        self._far = far
        if far is not None:
            far.expect(self._elsewhere)
        self.report = RestoreReport()
        self.image = self._records.the(Image)
        self._host = self._records.the(Host)
        self._files: RestoredFiles | None = None
        self._processes: list[RestoredProcess] = []
        self._places: list[Place] = []
        self._channel: socket.socket | None = None
        self._packet_lock: PacketLock | None = None
        self._at_end = contextlib.ExitStack()
        self._written = 0
        if staged is not None:
            self._at_end.callback(staged.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._files is not None:
            self._files.close()
            self._files = None
        if self._channel is not None:
            self._channel.close()
        if self._packet_lock is not None:
            self._packet_lock.remove()
        self._at_end.close()

    def check_host(self) -> None:
        """Compare this host with the image's.

        Raises:
            RefusedError: Names every difference that a restored program would stumble over.
        """
        overlooked = self._options.accepted & {"cpu-features"}
        refusals = [r for r in compare_hosts(self._host) if r.reason not in overlooked]
        if refusals:
            raise RefusedError(f"cannot restore {self._cid}", refusals)

    def clock_offsets(self) -> tuple[int, int]:
        """Time-namespace offsets (monotonic, boottime) in nanoseconds for the new sandbox."""
        return clock_shift(self._host)

    def hold_network(self, pid: int) -> None:
        """Hold peers of saved connections off, who must not hear that nobody is here yet.

        Args:
            pid: A task in the new network namespace, before that is connected to anything.

        Raises:
            OSError: This kernel has no nf_tables.
        """
        self._packet_lock = hold_peers(self._records, self._options, pid)

    # Trees

    def fill_overlay(self, upper: str | None, *, own: bool = False) -> None:
        """Put the files that the container had changed into a new overlay's upper directory.

        Args:
            upper: The directory; None for a container without an overlay.
            own: It is in an ext4 of the container's own, where inode numbers can be chosen.

        Raises:
            RestoreError: The image carries such files, and *upper* is None.
        """
        tree = next((tree for tree in self._records.all_of(Tree) if tree.kind == "overlay"), None)
        if tree is None:
            return
        if upper is None:
            raise RestoreError(
                f"{self._cid}: the image carries an overlay, the new container has none",
                reason="overlay-missing",
            )
        top = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        numbers = Ext4Numbers(os.fstat(top).st_dev) if own else None
        self._fill(TreeRestore(top, self._inodes(tree), numbers), "/")

    def devices(self) -> dict[str, int]:
        """The st_dev that the file systems of the sandbox had, by their mount points."""
        return {tree.path: tree.device for tree in self._records.all_of(Tree) if tree.root == "/"}

    @staticmethod
    def _open_tmpfs(pid: int, tree: Tree) -> int:
        """The mount point of a tmpfs, which the new sandbox must have at the same place."""
        try:
            top = open_inside(f"/proc/{pid}/root", tree.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as exc:
            raise RestoreError(
                f"{tree.path}: {os.strerror(exc.errno or 0)}, and the image carries files of a "
                "tmpfs there",
                reason="tmpfs-missing",
            ) from exc
        device = os.fstat(top).st_dev
        tmpfs = {m.device for m in read_mounts(pid) if m.fstype == "tmpfs"}
        if device not in tmpfs:
            os.close(top)
            raise RestoreError(
                f"{tree.path}: is no tmpfs, and the image carries files of one",
                reason="tmpfs-missing",
            )
        return top

    def _inodes(self, tree: Tree) -> list[Inode]:
        return [inode for inode in self._records.all_of(Inode) if inode.tree_id == tree.tree_id]

    def _fill(self, restore: TreeRestore, path: str) -> None:
        try:
            restore.make()
            if restore.renumbered:
                log.info("%s: %d files have other inode numbers", path, restore.renumbered)
            for chunk in self._stream.of(restore.objects):
                restore.fill(chunk)
            restore.finish()
        finally:
            restore.close()

    # Tasks

    def make_channel(self) -> int:
        """The end of the descriptor channel that the sandbox leaves in its init."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return theirs.detach()

    def build(
        self,
        init: Init,
        stdio: Stdio,
        cgroups: Freezer,
        make_session: Callable[[int], Init],
        progress: Progress = no_progress,
        around: Surroundings | None = None,
    ) -> None:
        """Rebuild every task around the sandbox's init; afterwards all of them are stopped.

        Args:
            init: Blocked before the execution of the stub, with `make_channel`'s end.
            stdio: What stands in for the standard streams that came from outside.
            cgroups: The new container's.
            make_session: Brings a further process into the sandbox, under the given pid inside; it
                is blocked there as the init is.
            progress: Told about memory.
            around: For the pager, if memory is to come later; else all of it is there now.

        Raises:
            RestoreError: The kernel refused a step, or the image contradicts itself. The caller
                kills what was made.
            ImageError: The image is damaged.
        """
        began = time.monotonic_ns()
        gc.disable()  # a sea of records that are all needed, looked through again and again
        try:
            self._build(init, stdio, cgroups, make_session, progress, around)
        except CallFailedError as exc:
            raise RestoreError(f"{self._cid}: {exc.strerror}") from exc
        finally:
            gc.enable()
        self.report.total_ns = time.monotonic_ns() - began
        log.info(
            "%s: restored %d tasks, %d bytes of memory, in %.1f ms",
            self._cid,
            self.report.tasks,
            self.report.memory_bytes,
            self.report.total_ns / 1e6,
        )

    def _build(
        self,
        init: Init,
        stdio: Stdio,
        own: Freezer,
        make_session: Callable[[int], Init],
        progress: Progress,
        around: Surroundings | None,
    ) -> None:
        began = time.monotonic_ns()
        records = self._records.all_of(Process)
        self._spaces = {space.mm_id: space for space in self._records.all_of(AddressSpace)}
        early = frozenset(space.early_id for space in self._spaces.values() if space.early_id)
        hole = common_hole(list(self._spaces.values()))
        stub = adopt(init.pid, init.go, hole, INIT)
        assert self._channel is not None
        files = self._files = RestoredFiles(
            self._records,
            root=f"/proc/{stub.pid}/root",
            stdio=stdio,
            init=stub,
            options=self._options,
            channel=self._channel,
        )
        files.packet_lock = self._packet_lock
        inheritance = Inheritance(
            self._spaces,
            lambda object_id: self._stream.early(object_id, early),
            lambda task: task.clear(hole),
            partial(self._open_early, files),
            self._fill_early,
        )
        terminals = RestoredTerminals(files, stub, self._channel)
        homes = CgroupHomes(own.directories_by_hierarchy())
        self._at_end.callback(homes.close)
        cgroups = CgroupRestore(self._records.all_of(Cgroup), homes)
        cgroups.make()
        namespaces = self._namespaces = self._make_namespaces(records, init.pid, cgroups)
        placement = Placement(
            namespaces, self._channel, stub, _taken_ids(namespaces, records), _end_quietly
        )
        tree = ProcessTree(records, stub, placement, inheritance.prepare, terminals.join_session)
        terminals.make()
        for record in records:
            if record.ppid == 0 and record.pid != INIT:
                session = make_session(record.pid)
                tree.add_root(record, adopt(session.pid, session.go, hole, record.pid))
        tree.build()
        terminals.settle_sessions(tree.tasks)
        files.tids |= {ns_pid: task.tid for ns_pid, task in tree.tasks.items()}
        for record in records:
            if not record.zombie:
                task = tree.threads[record.pid][0]
                files.tracees[task.tid] = task
                files.ns_pids[task.tid] = record.pid
        for record in records:
            for task, thread in zip(tree.threads.get(record.pid, ()), record.threads, strict=False):
                cgroups.place(task, thread.cgroups)
        root = proc_task.status(stub.pid)
        self._at_end.enter_context(making_files_as(root.ints("Uid")[3], root.ints("Gid")[3]))
        files.clock_elapsed = partial(clock_since, self._host, stub.pid)
        self._places = list(self._find_places(tree))
        files.places = {place.ns_id: place for place in self._places}
        self._state = list(self._sandbox_state())
        for kind, place, held_there in self._state:
            kind.restore(files, place, held_there)
        for held in self._records.all_of(Tree):
            if held.kind == "tmpfs":
                top = open_root(files, held) if held.fs_id else self._open_tmpfs(init.pid, held)
                self._fill(TreeRestore(top, self._inodes(held), TmpfsNumbers(top)), held.path)
        for kind in load_sandbox_kinds():
            kind.arrange(files, [(p, r) for k, p, r in self._state if k is kind])
        files.arranged = True
        files.make_deleted(self._stream.of)
        self._processes = [
            RestoredProcess(
                record,
                tree.threads[record.pid],
                tree.tasks[record.pid] if record.leader_exited else None,
            )
            for record in records
            if not record.zombie
        ]
        self._open_files(files)
        self._owners = _first_of_each_space(self._processes)
        for process in self._owners.values():
            self._map(process, files, born_with=process.record.mm_id in inheritance.mapped)
        self.report.tasks_ns = time.monotonic_ns() - began
        writer = MemoryWriter(
            {mm_id: (self._space(p), p.leader.tid) for mm_id, p in self._owners.items()}
        )
        put = self._content_writer(files, writer, progress)
        later = self._load_staged(files, writer, lazily=around is not None)
        from_image = around is not None and self._staged is None and self._far is None
        waiting = self._load_contents(put, lazily=from_image)
        inheritance.copy_rest(writer)
        if around is not None and waiting:
            self._fill_later(waiting, put, around)
        if around is not None and self._staged is not None and later:
            self._fill_from_rounds(self._staged, later, writer, around)
        if self._elsewhere:
            self._fill_from_afar(around)
        for process in self._owners.values():
            finish_address_space(process.leader, self._space(process), hole)
        completion = Completion(files, self._processes, namespaces, self._host, hole)
        completion.restore_state()
        self._finish_files(files)
        self.report.outside = files.outside
        completion.restore_rights()
        for record in records:
            if record.zombie:
                end_zombie(tree.tasks[record.pid], record, self._channel)
        completion.hand_over()
        cgroups.finish()
        self.report.processes = len(records)
        self.report.tasks = sum(len(process.tasks) for process in self._processes)

    def _make_namespaces(
        self, records: list[Process], init_pid: int, cgroups: CgroupRestore
    ) -> NewNamespaces:
        """Make what programs had made beside the sandbox's own."""
        namespaces = NewNamespaces(
            self._records.all_of(Namespace),
            self._records.all_of(UserNamespace),
            self._records.all_of(TimeNamespace),
            init_pid,
        )
        self._at_end.callback(namespaces.close)
        threads = (thread for record in records for thread in record.threads)
        roots = {record.ns_id: record.roots for record in self._records.all_of(CgroupNamespace)}
        namespaces.make(
            {thread.time_for_children for thread in threads},
            lambda ns_id, pid: cgroups.enter(pid, roots.get(ns_id, ())),
        )
        return namespaces

    def _find_places(self, tree: ProcessTree) -> Iterator[Place]:
        """A task for each namespace whose state the image holds."""
        for namespace in self._records.all_of(Namespace):
            if namespace.external:
                continue
            members = (
                task
                for record in self._records.all_of(Process)
                for task in tree.threads.get(record.pid, ())
                if task.within[namespace.kind] == namespace.ns_id
            )
            task = next(members, None)
            if task is not None:
                yield Place(namespace.ns_id, namespace.kind, namespace.own, task)
            elif (fd := self._namespaces.fd(namespace.ns_id)) is not None:
                held = f"/proc/self/fd/{fd}"
                yield Place(namespace.ns_id, namespace.kind, namespace.own, tree.tasks[INIT], held)

    def _sandbox_state(self) -> Iterator[tuple[SandboxKind, Place, list[Record]]]:
        """Every kind of state of every namespace that the image has records of."""
        for kind in load_sandbox_kinds():
            by_ns: dict[int, list[Record]] = {}
            for held in kind.records:
                for record in self._records.all_of(held):
                    by_ns.setdefault(record.ns_id, []).append(record)
            for place in self._places:
                if kind.namespace == place.kind and place.ns_id in by_ns:
                    yield kind, place, by_ns[place.ns_id]

    def _open_files(self, files: RestoredFiles) -> None:
        for process in self._processes:
            for task, _ in tables_of(process):
                files.tracees[task.tid] = task
                files.ns_pids[task.tid] = process.record.pid
            files.tids |= {task.ns_pid: task.tid for task in process.tasks}
        self._kinds = {kind.record: kind for kind in load_kinds()}
        wanted = self._wanted_files()
        for kind, record in wanted:
            files.fds[record.file_id] = kind.restore(files, record)
        for kind, record in wanted:
            kind.fill(files, record)

    def _wanted_files(self) -> list[tuple[Kind, Any]]:
        """The files that some process has open, and those that live in one of these."""
        by_id: dict[int, tuple[Kind, Any]] = {}
        for record in self._records:
            kind = self._kinds.get(type(record))
            if kind is not None:
                by_id[getattr(record, "file_id", 0)] = (kind, record)
        pending = [
            descriptor.file_id
            for process in self._processes
            for _, table in tables_of(process)
            for descriptor in table.descriptors
        ]
        wanted = set()
        while pending:
            file_id = pending.pop()
            if file_id in by_id and file_id not in wanted:
                wanted.add(file_id)
                kind, record = by_id[file_id]
                pending += kind.references(record)
        return [found for file_id, found in by_id.items() if file_id in wanted]

    def _finish_files(self, files: RestoredFiles) -> None:
        """What files, namespaces and others can only be given when every task has its own."""
        last: list[tuple[Kind, Record]] = []
        for record in self._records:
            kind: Kind | None = self._kinds.get(type(record))
            if kind is not None and getattr(record, "file_id", 0) in files.fds:
                if kind.own_flags:
                    restore_flags(files, record)
                if kind.finishes_last:
                    last.append((kind, record))
                else:
                    kind.finish(files, record)
        for kind, record in last:
            kind.finish(files, record)
        for sandbox_kind, place, held in self._state:
            sandbox_kind.finish(files, place, held)
        for step in files.last_steps:
            step()

    # Memory

    def _open_early(
        self, files: RestoredFiles, task: NewTask, file_ids: Iterable[int]
    ) -> dict[int, int]:
        assert self._channel is not None
        ordered = sorted(file_ids)
        ours = [mapped_file(files, file_id) for file_id in ordered]
        return give(task, self._channel, ordered, ours)

    def _map(self, process: RestoredProcess, files: RestoredFiles, *, born_with: bool) -> None:
        space = self._space(process)
        assert self._channel is not None

        def is_done(vma: Vma) -> bool:
            return born_with and is_early(space, vma)

        numbers = open_for_mapping(process.leader, self._channel, files, space, is_done)

        def number_of(vma: Vma) -> int:
            return numbers[key_of(vma)]

        exe_fd = numbers[space.exe_file_id]
        map_address_space(process.leader, space, number_of, exe_fd, is_done=is_done)
        attach_segments(process.leader, space, files)
        restore_rings(process.leader, space, files)
        batch = Batch()
        for number in numbers.values():
            batch.call("close", number)
        process.leader.do(batch)

    def _space(self, process: RestoredProcess) -> AddressSpace:
        try:
            return self._spaces[process.record.mm_id]
        except KeyError:
            raise RestoreError(
                f"process {process.record.pid} names an address space that the image lacks",
                reason="image-inconsistent",
            ) from None

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

    def _load_contents(
        self, put: Callable[[Chunk, memoryview], None], *, lazily: bool
    ) -> list[Chunk]:
        """Fill memory; returns the chunks that may come later."""
        began = time.monotonic_ns()
        waiting: list[Chunk] = []
        if lazily:
            from runtime.engine.lazy.deferral import Deferral

            deferral = Deferral(self._spaces, self._records.all_of(Process))
            waiting = self._stream.rest_but(put, deferral)
        else:
            self._stream.rest(put)
        self.report.memory_bytes += self._stream.early_bytes + self._written
        self.report.memory_ns = time.monotonic_ns() - began
        return waiting

    def _fill_later(
        self,
        waiting: list[Chunk],
        put: Callable[[Chunk, memoryview], None],
        around: Surroundings,
    ) -> None:
        """Have the pager fill what may come later, from now on."""
        from runtime.engine.lazy.deferral import register_space
        from runtime.engine.lazy.image_source import ImageSource
        from runtime.engine.lazy.process import start_pager

        assert self._channel is not None
        source = ImageSource(waiting, fds=around.fds)
        served: list[tuple[int, int]] = []
        for mm_id in source.objects():
            process = self._owners[mm_id]
            runs = source.runs(mm_id)
            fd = register_space(process.leader, self._channel, self._space(process), runs)
            if fd is not None:
                served.append((fd, mm_id))
                self.report.later_bytes += sum(end - start for start, end in runs)
                continue
            log.warning("pid %d: its memory cannot come later", process.record.pid)
            for chunk in waiting:
                if chunk.object_id == mm_id:
                    put(chunk, plain_of(chunk))
        if served:
            start_pager(source, served, around)

    def _fill_early(self, object_id: int, writer: MemoryWriter) -> None:
        """Put in what was staged of memory that children inherit."""
        if self._staged is not None:
            self._put_staged(object_id, self._staged.runs(object_id), writer)

    def _put_staged(self, object_id: int, runs: Sequence[Range], writer: MemoryWriter) -> None:
        assert self._staged is not None
        put = partial(writer.put, object_id)
        self.report.memory_bytes += self._staged.for_each(object_id, runs, put)

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
            self.report.memory_bytes += self._staged.for_each(object_id, runs, put)
        split: dict[int, tuple[list[Range], list[Range]]]
        split = {mm_id: ([], list(self._staged.runs(mm_id))) for mm_id in self._owners}
        if lazily:
            from runtime.engine.lazy.deferral import Deferral

            deferral = Deferral(self._spaces, self._records.all_of(Process))
            split = {mm_id: deferral.split(mm_id, self._staged.runs(mm_id)) for mm_id in split}
            if sum(size_of(later) for later, _ in split.values()) < WORTH_WAITING:
                split = {mm_id: ([], union(*parts)) for mm_id, parts in split.items()}
        for mm_id, (_, now) in split.items():
            self._put_staged(mm_id, now, writer)
        return {mm_id: later for mm_id, (later, _) in split.items() if later}

    def _fill_from_rounds(
        self,
        staged: StagedSource,
        later: dict[int, list[Range]],
        writer: MemoryWriter,
        around: Surroundings,
    ) -> None:
        """Have the pager fill in what came in rounds, from now on."""
        from runtime.engine.lazy.deferral import register_space
        from runtime.engine.lazy.process import start_pager

        assert self._channel is not None
        served: list[tuple[int, int]] = []
        for mm_id, runs in later.items():
            process = self._owners[mm_id]
            fd = register_space(process.leader, self._channel, self._space(process), runs)
            if fd is None:
                log.info("pid %d: its memory cannot come later", process.record.pid)
                self._put_staged(mm_id, runs, writer)
                continue
            served.append((fd, mm_id))
            self.report.later_bytes += size_of(runs)
        if served:
            start_pager(staged.only({mm_id: later[mm_id] for _, mm_id in served}), served, around)

    def _fill_from_afar(self, around: Surroundings | None) -> None:
        """Have the pager ask for what the image leaves out, from now on."""
        from runtime.engine.lazy.deferral import Deferral, register_space
        from runtime.engine.lazy.process import start_pager

        assert self._channel is not None and self._far is not None and around is not None
        deferral = Deferral(self._spaces, self._records.all_of(Process))
        served: list[tuple[int, int]] = []
        for mm_id, runs in self._elsewhere.items():
            process = self._owners.get(mm_id)
            if process is None or deferral.split(mm_id, runs)[1]:
                raise RestoreError(
                    f"memory of object {mm_id} is elsewhere that must be here",
                    reason="image-inconsistent",
                )
            fd = register_space(process.leader, self._channel, self._space(process), runs)
            if fd is None:
                raise RestoreError(
                    f"pid {process.record.pid}: its memory cannot come later (userfaultfd)",
                    reason="no-userfaultfd",
                )
            served.append((fd, mm_id))
            self.report.later_bytes += size_of(runs)
        start_pager(self._far, served, around)

    def _content_files(self, files: RestoredFiles) -> dict[int, int]:
        return {
            s.object_id: files.shared_memory(s.object_id)
            for s in self._records.all_of(SharedMemory)
        }

    def release(self, cgroups: Freezer) -> None:
        """Freeze the container by its cgroup and let go of its tasks; it is *created* now."""
        # They count as frozen only when we have let go: nothing to wait for yet.
        cgroups.begin_freeze()
        for process in self._processes:
            for task in process.tasks:
                restore_threads.detach(task)
        self._processes = []


def _first_of_each_space(processes: Iterable[RestoredProcess]) -> dict[int, RestoredProcess]:
    """The first process with each address space."""
    found: dict[int, RestoredProcess] = {}
    for process in processes:
        found.setdefault(process.record.mm_id, process)
    return found


def _taken_ids(namespaces: NewNamespaces, records: list[Process]) -> dict[int, set[int]]:
    """Every id that the image needs, by pid namespace."""
    lines = []
    for record in records:
        pid_ns = namespaces.wanted(record)["pid"]
        lines += [
            (pid_ns, (record.pid, *record.nested_pids)),
            (pid_ns, (record.pgid, *record.nested_pgid)),
            (pid_ns, (record.sid, *record.nested_sid)),
        ]
        lines += [(pid_ns, (thread.tid, *thread.nested_tids)) for thread in record.threads]
    return taken_ids(namespaces, lines)


def _end_quietly(task: NewTask) -> None:
    end_task(task, 0)
