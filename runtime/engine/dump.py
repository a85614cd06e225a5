"""Dump: a running container into an image, in one frozen section.

The order is: freeze; look at everything and collect what cannot be saved; only then write. The
container stays frozen while the caller makes the image durable, and goes on afterwards unless
the caller has killed it. Any failure lets it go on as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import stat
import time
from collections.abc import Iterator

from formats.records.codec import Record
from formats.records.files import DeletedFile
from formats.records.image import Image
from formats.records.memory import Backing
from formats.records.sandbox import Namespace
from formats.records.task import Process, ResourceLimit
from formats.statefile import ImageWriter
from runtime.engine import dump_memory
from runtime.engine.api import DumpReport, DumpTarget, Progress, no_progress
from runtime.engine.check_sandbox import check_sandbox
from runtime.engine.context import DumpContext
from runtime.engine.cow import Pages, by_birth, share_pages
from runtime.engine.dump_tasks import (
    LiveProcess,
    check_process,
    collect_tree,
    dump_process,
)
from runtime.engine.files.kind import load_kinds
from runtime.engine.files.table import FileTable, open_again
from runtime.engine.freeze import Frozen, frozen
from runtime.engine.host_facts import describe_host
from runtime.engine.mappings import dump_address_space
from runtime.engine.sandbox.kind import load_sandbox_kinds
from runtime.engine.scopes import collect_scopes, nested_in
from runtime.engine.terminal_dump import TerminalTable
from runtime.engine.trees import TreeDump, scan_tree, write_tree
from runtime.errors import CheckpointError, RefusedError
from runtime.kernel import kcmp, proc_maps, proc_task
from runtime.version import VERSION

REFUSED = (
    ("shared-fs", "processes that share these without being threads of one process"),
    ("shared-memory-map", "processes that share these without being threads of one process"),
    ("shared-handlers", "processes that share these without being threads of one process"),
)

log = logging.getLogger(__name__)


@contextlib.contextmanager
def dumped(
    target: DumpTarget, writer: ImageWriter, progress: Progress = no_progress
) -> Iterator[DumpReport]:
    """Freeze a container and write it; the ``with`` block runs while it is still frozen.

    On entry the image is complete in the writer's sink. Inside the block the caller makes it
    durable and may kill the container. On the way out every task that is left goes on.

    Raises:
        RefusedError: Something cannot be saved; names everything that was found.
        CheckpointError: The kernel refused a step, or a task did not stop.
    """
    report = DumpReport()
    load_kinds()  # now, for the container waits for every import later
    load_sandbox_kinds()
    began = time.monotonic_ns()
    progress("freeze", 0, 0)
    with frozen(target.cgroups, target.container_id) as state:
        report.freeze_ns = time.monotonic_ns() - began
        dump = _Dump(target, state, report)
        try:
            collected = time.monotonic_ns()
            dump.collect()
            report.collect_ns = time.monotonic_ns() - collected
            written = time.monotonic_ns()
            dump.write(writer, progress)
            writer.finish()
            report.write_ns = time.monotonic_ns() - written
        except (FileNotFoundError, ProcessLookupError) as exc:
            raise CheckpointError(
                f"{target.container_id}: something vanished during the checkpoint: {exc}"
            ) from exc
        finally:
            dump.close()
        yield report
    report.frozen_ns = time.monotonic_ns() - began
    log.info(
        "%s: froze in %.1f ms, looked for %.1f ms, wrote %d bytes of memory in %.1f ms",
        target.container_id,
        report.freeze_ns / 1e6,
        report.collect_ns / 1e6,
        report.memory_bytes,
        report.write_ns / 1e6,
    )


class _Dump:
    """One dump under way."""

    def __init__(self, target: DumpTarget, state: Frozen, report: DumpReport) -> None:
        self.target = target
        self.context = DumpContext(target, state)
        self.report = report
        self.files = FileTable(self.context)
        self.spaces: list[Pages] = []
        self.processes: list[Process] = []
        self.trees: list[TreeDump] = []
        self.records: list[Record] = []  # of namespaces and what they hold

    def close(self) -> None:
        """Close the descriptors that looking has opened."""
        self.files.close()

    # Looking

    def collect(self) -> None:
        """Make every record; raise with everything that cannot be saved."""
        tree = collect_tree(self.context)
        self.host = describe_host(self.target.init_pid, 0)
        check_sandbox(self.context)
        living = [process for process in tree if not process.zombie]
        self.context.scopes = collect_scopes(self.context, [process.pid for process in living])
        for process in tree:
            check_process(self.context, process)
        self._raise_refusals()
        for process in living:
            process.mappings = proc_maps.mappings(process.pid)
            self.context.mappings[process.pid] = process.mappings
            dump_process(self.context, process)
            self.context.live[process.pid] = process
        self._collect_sandbox()
        files_ids = self._descriptor_tables(living)
        self.files.collect([p.pid for p in living if files_ids[p.pid][1]])
        TerminalTable.of(self.files).collect([process.pid for process in living])
        for process in tree:
            self.processes.append(
                self._zombie(process)
                if process.zombie
                else self._process(process, *files_ids[process.pid])
            )
        share_pages(self.spaces, self.context.new_id, self._files_on_root)
        self._collect_trees()
        self._raise_refusals()
        self.files.records += [make() for make in self.files.at_last]
        self.report.processes = len(tree)
        self.report.tasks = sum(len(process.threads) for process in tree)
        self.report.warnings = self.context.warnings
        xstate = max((len(t.xstate) for p in living for t in p.threads), default=0)
        self.host = dataclasses.replace(self.host, xstate_size=xstate)

    def _collect_sandbox(self) -> None:
        for scope in self.context.scopes.values():
            self.records.append(Namespace(scope.ns_id, scope.kind, scope.own, scope.external))
        for kind in load_sandbox_kinds():
            for scope in self.context.scopes.values():
                if scope.kind == kind.namespace and not scope.external:
                    self.records += kind.dump(self.context, self.files, scope)

    def _files_on_root(self, pages: Pages) -> set[int]:
        """File records behind private mappings that lie on the container's root file system."""
        first = {v.object_id: v for v in pages.space.vmas if v.backing is Backing.FILE}
        return {
            file_id
            for file_id, vma in first.items()
            if self.files.is_on_root(file_id, f"/proc/{pages.pid}/map_files/{vma.map_file}")
        }

    def _raise_refusals(self) -> None:
        if self.context.refusals:
            raise RefusedError(
                f"cannot checkpoint {self.target.container_id}", self.context.refusals
            )

    def _descriptor_tables(self, living: list[LiveProcess]) -> dict[int, tuple[int, bool]]:
        """For each process the id of its descriptor table, and whether it is the first with it."""
        groups = kcmp.group_same(
            [process.pid for process in living],
            lambda a, b: kcmp.kcmp(a, b, kcmp.KCMP_FILES),
        )
        order = {process.pid: index for index, process in enumerate(living)}
        found = {}
        for group in groups:
            table_id = self.context.new_id()
            first = min(group, key=order.__getitem__)
            for pid in group:
                found[pid] = (table_id, pid == first)
        self._refuse_shared(living)
        return found

    def _refuse_shared(self, living: list[LiveProcess]) -> None:
        by_pid = {process.pid for process in living}
        for process in living:
            if process.parent not in by_pid:
                continue
            for kind, reason, what in (
                (kcmp.KCMP_VM, "shared-memory-map", "its memory"),
                (kcmp.KCMP_FS, "shared-fs", "its working directory"),
                (kcmp.KCMP_SIGHAND, "shared-handlers", "its signal handlers"),
            ):
                if kcmp.kcmp(process.pid, process.parent, kind) == 0:
                    self.context.refuse(
                        reason,
                        self.context.subject(process.pid),
                        f"shares {what} with its parent process",
                    )

    def _zombie(self, process: LiveProcess) -> Process:
        stat = process.stat
        return Process(
            pid=self._inside(process.pid),
            ppid=self._inside(process.parent),
            pgid=self._inside(stat.pgrp),
            sid=self._inside(stat.session),
            exit_signal=stat.exit_signal,
            zombie=True,
            exit_status=stat.exit_code,
            comm=stat.comm,
        )

    def _process(self, process: LiveProcess, files_id: int, owns_files: bool) -> Process:
        pid, stat, answers = process.pid, process.stat, process.answers
        assert answers is not None
        mm_id = self.context.new_id()
        space = dump_address_space(self.context, self.files, process, mm_id)
        runs = list(dump_memory.private_runs(pid, space))
        self.spaces.append(Pages(pid, process.parent, space, runs))
        return Process(
            pid=self._inside(pid),
            ppid=self._inside(process.parent),
            pgid=self._inside(stat.pgrp),
            sid=self._inside(stat.session),
            exit_signal=stat.exit_signal,
            zombie=False,
            exit_status=0,
            comm=stat.comm,
            stopped=self.context.frozen.group_stops.get(pid, 0),
            stop_reported=pid not in self.context.unreported_stops,
            mm_id=mm_id,
            files_id=files_id,
            cwd=os.readlink(f"/proc/{pid}/cwd"),
            root=os.readlink(f"/proc/{pid}/root"),
            cwd_file_id=self.files.add_directory(pid, "cwd"),
            root_file_id=self._root(pid),
            umask=int(proc_task.status(pid).fields["Umask"], 8),
            personality=int(_read(f"/proc/{pid}/personality"), 16),
            dumpable=answers.dumpable,
            child_subreaper=answers.child_subreaper,
            thp_disabled=answers.thp_disabled,
            oom_score_adj=int(_read(f"/proc/{pid}/oom_score_adj")),
            limits=tuple(ResourceLimit(*limit) for limit in proc_task.limits(pid)),
            actions=answers.actions,
            pending=process.pending,
            interval_timers=answers.interval_timers,
            posix_timers=answers.posix_timers,
            threads=tuple(process.threads),
            descriptors=self.files.descriptors(pid) if owns_files else (),
            namespaces=nested_in(self.context.scopes, pid),
            semaphore_undo=process.semaphore_undo,
        )

    def _inside(self, pid: int) -> int:
        """A pid, group or session of our pid namespace as the container sees it; 0 for outside."""
        if pid in self.context.ns_pids:
            return self.context.ns_pids[pid]
        if pid == 0:
            return 0
        return self._dead_id(pid)

    def _dead_id(self, pid: int) -> int:
        """The id inside of a session or group whose leader is gone.

        Any member's status lists it: ``NSpgid`` and ``NSsid``.
        """
        for member in self.context.frozen.pids:
            status = proc_task.status(member)
            for key in ("NSpgid", "NSsid"):
                ids = status.ints(key)
                if ids[0] == pid:
                    return ids[-1]
        return 0

    def _root(self, pid: int) -> int:
        if os.path.samefile(f"/proc/{pid}/root", self.files.root):
            return 0
        return self.files.add_directory(pid, "root")

    def _collect_trees(self) -> None:
        upper = self.target.overlay_upper
        if upper is not None:
            self.trees.append(scan_tree(self.context, "overlay", "/", str(upper)))
        seen = set()
        for mount in self.files.mounts.mounts.values():
            writable_tmpfs = mount.fstype == "tmpfs" and "ro" not in mount.options.split(",")
            if not writable_tmpfs or mount.root != "/" or mount.device in seen:
                continue
            top = self.files.root + mount.point
            # A mount on top of it hides it: what is seen there is not this tmpfs.
            if os.stat(top).st_dev == mount.device:
                seen.add(mount.device)
                self.trees.append(scan_tree(self.context, "tmpfs", mount.point, top))

    # Writing

    def write(self, writer: ImageWriter, progress: Progress) -> None:
        """Put all records, then all contents, into the image."""
        target = self.target
        writer.add_record(
            Image(
                container_id=target.container_id,
                created_ns=time.time_ns(),
                wherry_version=VERSION,
                spec=target.spec,
                metadata=target.metadata,
            )
        )
        writer.add_record(self.host)
        for record in self.records:
            writer.add_record(record)
        for tree in self.trees:
            writer.add_record(tree.tree)
            for inode in tree.inodes:
                writer.add_record(inode)
        for deleted, _ in self.files.deleted.values():
            writer.add_record(deleted)
        for shared, _ in self.files.shared.values():
            writer.add_record(shared)
        for file in self.files.records:
            writer.add_record(file)
        for pages in self.spaces:
            writer.add_record(pages.space)
        for process in self.processes:
            writer.add_record(process)
        self._write_contents(writer, progress)

    def _write_contents(self, writer: ImageWriter, progress: Progress) -> None:
        done, total = 0, self._memory_size()
        for tree in self.trees:
            if tree.tree.kind == "overlay":  # needed before there is any process
                write_tree(writer, tree)
        for pages in by_birth(self.spaces):
            if pages.space.early_id:
                done = self._write_pages(writer, pages, progress, done, total, early=True)
        for tree in self.trees:
            if tree.tree.kind != "overlay":
                write_tree(writer, tree)
        for deleted, path in self.files.deleted.values():
            if stat.S_ISREG(deleted.mode) and not deleted.other_name:
                self._write_file(writer, deleted, path)
        progress("memory", done, total)
        for shared, path in self.files.shared.values():
            fd = open_again(path)
            try:
                done += dump_memory.write_shared_memory(writer, shared, fd)
            finally:
                os.close(fd)
            progress("memory", done, total)
        for pages in self.spaces:
            done = self._write_pages(writer, pages, progress, done, total, early=False)
        self.report.memory_bytes = done

    @staticmethod
    def _write_pages(
        writer: ImageWriter, pages: Pages, progress: Progress, done: int, total: int, *, early: bool
    ) -> int:
        object_id = pages.space.early_id if early else pages.space.mm_id
        runs = pages.own(early=early)
        base = done
        write = dump_memory.write_private_pages
        for added in write(writer, object_id, pages.pid, runs, gently=pages.related):
            done = base + added
            progress("memory", done, total)
        return done

    @staticmethod
    def _write_file(writer: ImageWriter, deleted: DeletedFile, path: str) -> None:
        fd = open_again(path)
        try:
            dump_memory.write_file_pages(writer, deleted.object_id, fd, deleted.size)
        finally:
            os.close(fd)

    def _memory_size(self) -> int:
        """How many bytes of memory there are to write at most, for a progress bar."""
        private = sum(
            end - start
            for pages in self.spaces
            for early in (False, True)
            for start, end, _ in pages.own(early=early)
        )
        return private + sum(shared.size for shared, _ in self.files.shared.values())


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()
