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
import socket
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from formats.records.cgroups import Cgroup
from formats.records.image import Host, Image
from formats.records.memory import AddressSpace
from formats.records.task import Process
from formats.statefile import ImageReader
from runtime.engine import restore_threads, restore_trees
from runtime.engine.api import (
    Freezer,
    Init,
    Progress,
    RestoreOptions,
    RestoreReport,
    no_progress,
)
from runtime.engine.cgroup_tree import CgroupHomes, CgroupRestore
from runtime.engine.corpses import end_zombie
from runtime.engine.cow import Inheritance
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.hold_peers import hold_peers
from runtime.engine.host_facts import clock_shift, clock_since, compare_hosts
from runtime.engine.image_records import Records
from runtime.engine.new_task import NewTask, adopt
from runtime.engine.placement import Placement
from runtime.engine.remote import CallFailedError
from runtime.engine.restore_contents import ContentRestore
from runtime.engine.restore_end import Completion
from runtime.engine.restore_files import FileRestore
from runtime.engine.restore_maps import map_space, open_early, owners_of
from runtime.engine.restore_memory import (
    common_hole,
    finish_address_space,
)
from runtime.engine.restore_namespaces import NamespaceState, ids_in_use, make_namespaces
from runtime.engine.restore_stream import ChunkStream
from runtime.engine.restore_threads import RestoredProcess
from runtime.engine.restore_tree import INIT, ProcessTree, end_task
from runtime.engine.staging import StagedMemory
from runtime.engine.terminal_restore import RestoredTerminals
from runtime.errors import RefusedError, RestoreError
from runtime.kernel import proc_task
from runtime.kernel.fsids import making_files_as
from runtime.kernel.nft import PacketLock

if TYPE_CHECKING:
    from runtime.engine.lazy.process import Surroundings
    from runtime.engine.lazy.source import FarSource

log = logging.getLogger(__name__)

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
        self.report = RestoreReport()
        self._contents = ContentRestore(self._records, self._stream, staged, far, self.report)
        self.image = self._records.the(Image)
        self._host = self._records.the(Host)
        self._files: RestoredFiles | None = None
        self._processes: list[RestoredProcess] = []
        self._channel: socket.socket | None = None
        self._packet_lock: PacketLock | None = None
        self._at_end = contextlib.ExitStack()
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
        restore_trees.fill_overlay(self._records, self._stream, upper, self._cid, own=own)

    def devices(self) -> dict[str, int]:
        """The st_dev that the file systems of the sandbox had, by their mount points."""
        return restore_trees.devices(self._records)

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
            partial(open_early, files, self._channel),
            self._contents.fill_early,
        )
        terminals = RestoredTerminals(files, stub, self._channel)
        homes = CgroupHomes(own.directories_by_hierarchy())
        self._at_end.callback(homes.close)
        cgroups = CgroupRestore(self._records.all_of(Cgroup), homes)
        cgroups.make()
        namespaces = make_namespaces(self._records, init.pid, cgroups, self._at_end.callback)
        in_use = ids_in_use(namespaces, records)
        placement = Placement(namespaces, self._channel, stub, in_use, _end_quietly)
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
        state = NamespaceState(self._records, namespaces, tree)
        files.places = {place.ns_id: place for place in state.places}
        state.restore(files)
        restore_trees.fill_tmpfs(self._records, self._stream, files, init.pid)
        state.arrange(files)
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
        file_restore = FileRestore(self._records, files)
        file_restore.open(self._processes)
        owners = owners_of(self._processes, self._spaces)
        for mm_id, owner in owners.items():
            map_space(owner, self._channel, files, born_with=mm_id in inheritance.mapped)
        self.report.tasks_ns = time.monotonic_ns() - began
        self._contents.fill(owners, files, self._channel, inheritance.copy_rest, progress, around)
        for owner in owners.values():
            finish_address_space(owner.process.leader, owner.space, hole)
        completion = Completion(files, self._processes, namespaces, self._host, hole)
        completion.restore_state()
        file_restore.finish()
        state.finish(files)
        for step in files.last_steps:
            step()
        self.report.outside = files.outside
        completion.restore_rights()
        for record in records:
            if record.zombie:
                end_zombie(tree.tasks[record.pid], record, self._channel)
        completion.hand_over()
        cgroups.finish()
        self.report.processes = len(records)
        self.report.tasks = sum(len(process.tasks) for process in self._processes)

    def release(self, cgroups: Freezer) -> None:
        """Freeze the container by its cgroup and let go of its tasks; it is *created* now."""
        # They count as frozen only when we have let go: nothing to wait for yet.
        cgroups.begin_freeze()
        for process in self._processes:
            for task in process.tasks:
                restore_threads.detach(task)
        self._processes = []


def _end_quietly(task: NewTask) -> None:
    end_task(task, 0)
