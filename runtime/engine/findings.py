"""What a frozen container is made of: everything is looked at before anything is written."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from formats.elsewhere import elsewhere_records
from formats.records.codec import Record
from formats.records.memory import Backing, Staging
from formats.records.task import (
    Process,
)
from formats.staged import staged_records
from runtime.engine.api import DumpReport, DumpTarget
from runtime.engine.cgroup_tree import CgroupDump, CgroupHomes
from runtime.engine.context import DumpContext
from runtime.engine.cow import Pages, share_pages
from runtime.engine.dump_records import ProcessRecords
from runtime.engine.dump_tasks import check_tasks, collect_tree, dump_process
from runtime.engine.files.table import FileTable
from runtime.engine.freeze import Frozen
from runtime.engine.held_namespaces import collect_held
from runtime.engine.host_facts import describe_host
from runtime.engine.kinship import Kinship
from runtime.engine.live_process import LiveProcess
from runtime.engine.ranges import Range, gaps, size_of, union
from runtime.engine.sandbox.kind import load_sandbox_kinds
from runtime.engine.scopes import Scopes
from runtime.engine.sharing import FILES, MM, Sharing
from runtime.engine.task_settings import check_label, check_landlock
from runtime.engine.terminal_dump import TerminalTable
from runtime.engine.trees import TreeDump, scan_tree
from runtime.errors import CheckpointError, RefusedError
from runtime.kernel import proc_maps

if TYPE_CHECKING:
    from runtime.engine.incremental import Incremental, Part
    from runtime.engine.precopy import PreCopy

WORTH_ASKING = 256 << 10
"""Bytes of an address space; less is sent at once."""


class Findings:
    """What a look at a frozen container finds: records, and where contents are.

    Args:
        target: The container.
        state: Its being frozen.
        report: Told what was found.
        began: When the freeze began, by time.monotonic_ns().
        precopy, postcopy, incremental: As for `runtime.engine.dump.dumped`.

    Attributes:
        frozen: Lets the container go on when it is closed.
        host: Of the host.
        records: Of namespaces and what they hold.
        trees, files, spaces, processes: The others.
        staged: Of memory that is elsewhere.
        parts: Memory that the rounds of a snapshot have read, by ``mm_id``.
        kept: Ranges of shared memory that came in rounds, by object id.
    """

    def __init__(
        self,
        target: DumpTarget,
        state: Frozen,
        report: DumpReport,
        began: int,
        precopy: PreCopy | None = None,
        postcopy: bool = False,
        incremental: Incremental | None = None,
    ) -> None:
        self.target = target
        self.precopy = precopy
        self.postcopy = postcopy
        self.incremental = incremental
        self.parts: dict[int, Part] = {}
        self.staged: list[Record] = []
        self.began = began  # time.monotonic_ns()
        self.context = DumpContext(target, state)
        self.report = report
        self.files = FileTable(self.context)
        self.spaces: list[Pages] = []
        self.processes: list[Process] = []
        self.trees: list[TreeDump] = []
        self.records: list[Record] = []
        self.scopes = Scopes(self.context)
        self.homes = CgroupHomes(target.cgroups.directories_by_hierarchy())
        self.cgroups = CgroupDump(self.context, self.homes)
        self.frozen = contextlib.ExitStack()
        self.kept: dict[int, list[Range]] = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """For a part of the dump; if it fails, what looking has opened is closed."""
        try:
            yield
        except (FileNotFoundError, ProcessLookupError) as exc:
            self.close()
            raise CheckpointError(
                f"{self.target.container_id}: something vanished during the checkpoint: {exc}"
            ) from exc
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the descriptors that looking has opened."""
        self.files.close()
        self.scopes.close()
        self.homes.close()

    def collect(self) -> None:
        """Make every record; raise with everything that cannot be saved."""
        tree = collect_tree(self.context, self.scopes)
        self.host = describe_host(self.target.init_pid, 0)
        self.context.clock_ns = time.monotonic_ns()
        living = [process for process in tree if not process.zombie]
        check_tasks(self.context)
        self._raise_refusals()
        self.context.views = [process.view for process in living]
        with contextlib.ExitStack() as at_end:
            reader = ThreadPoolExecutor(1)
            at_end.callback(reader.shutdown, cancel_futures=True)
            # For smaps the kernel goes through all pages, 16 ms for a GiB, without the interpreter.
            mappings = reader.map(proc_maps.mappings, self.context.views)
            collect_held(self.context, self.scopes, self.context.views)
            self._collect_sandbox()
            for process in living:
                check_label(self.context, process.view)
                check_landlock(self.context, process.view)
                process.mappings = next(mappings)
                dump_process(self.context, process, self.scopes)
                self.context.live[process.view] = process
        self.sharing = Sharing(self.context, living)
        self._find_tracked(living)
        self.files.collect(self.sharing.first(FILES))
        TerminalTable.of(self.files).collect([process.pid for process in living])
        records = ProcessRecords(self.context, self.files, self.scopes, self.cgroups, self.sharing)
        self.processes = [records.record(process) for process in tree]
        self.spaces = records.spaces
        for problem in Kinship(self.processes).problems:
            self.context.refuse(problem.reason, problem.subject, problem.sentence)
        share_pages(self.spaces, self.context.new_id, self._files_on_root)
        self._find_staged()
        if self.postcopy:
            self._leave_out()
        self._find_parts()
        self._collect_trees()
        self._raise_refusals()
        self.files.records += [make() for make in self.files.at_last]
        self.report.processes = len(tree)
        self.report.tasks = sum(len(process.threads) for process in tree)
        self.report.warnings = self.context.warnings
        xstate = max((len(t.xstate) for p in living for t in p.threads), default=0)
        self.host = dataclasses.replace(self.host, xstate_size=xstate)

    def _find_tracked(self, living: Sequence[LiveProcess]) -> None:
        rounds = self.precopy or self.incremental
        if rounds is None:
            return
        rounds.look_again()
        spaces = rounds.tracking.spaces
        for process in living:
            if process.pid not in spaces:
                continue
            mm_id = self.sharing.number(MM, process.view)
            space = spaces[process.pid]
            known = self.context.tracked.setdefault(mm_id, space)
            if known is not space:
                # One of them had another one when it was enrolled.
                known.tainted = space.tainted = True

    def _find_staged(self) -> None:
        """Find out what need not be stored, and say where it is instead."""
        if self.precopy is None:
            return
        self.staged.append(Staging(tuple(self.precopy.roots)))
        for pages in self.spaces:
            space = self.context.tracked.get(pages.space.mm_id)
            if space is None:
                continue
            pages.staged = self.precopy.kept(space, pages.pid)
            for early in (True, False):
                object_id = pages.space.early_id if early else pages.space.mm_id
                if object_id:
                    self._add_staged(object_id, space.number, pages.own_staged(early=early))
        for key, (shared, path) in self.files.shared.items():
            number = self.precopy.shared_number(key)
            if number and not shared.huge_page_size:
                kept = self.kept[shared.object_id] = self.precopy.kept_shared(key, path)
                self._add_staged(shared.object_id, number, kept)

    def _leave_out(self) -> None:
        """Find out what can be asked for later, and say so instead of storing it."""
        from runtime.engine.lazy.deferral import Deferral

        spaces = {pages.space.mm_id: pages.space for pages in self.spaces}
        deferral = Deferral(spaces, self.processes)
        shared: dict[tuple[int, int, int], list[Range]] = {}
        for pages in self.spaces:
            parts = [(start, start + size) for start, size in pages.space.shared]
            shared[pages.ancestry] = union(shared.get(pages.ancestry, []), parts)
        for pages in self.spaces:
            # What children inherit they must find when they are born.
            alone = list(gaps(pages.left(), shared[pages.ancestry]))
            later, _ = deferral.split(pages.space.mm_id, alone)
            if size_of(later) < WORTH_ASKING:
                continue
            pages.staged = union(pages.staged, later)
            self.staged += elsewhere_records(pages.space.mm_id, later)
            self.report.later_bytes += size_of(later)
            self.report.later[pages.space.mm_id] = pages.pid

    def _find_parts(self) -> None:
        """Find out what the rounds of a snapshot have read that is still as it was."""
        if self.incremental is None:
            return
        for pages in self.spaces:
            space = self.context.tracked.get(pages.space.mm_id)
            if space is not None and pages.shares_nothing:
                part = self.incremental.part(space, pages.pid, pages.space)
                if part is not None:
                    self.parts[pages.space.mm_id] = part

    def _add_staged(self, object_id: int, staged_id: int, ranges: Sequence[Range]) -> None:
        self.staged += staged_records(object_id, staged_id, ranges)
        self.report.staged_bytes += size_of(ranges)

    def _collect_sandbox(self) -> None:
        self.records += self.scopes.records()
        self.records += self.cgroups.records(self.context.frozen.tracees)
        for scope in self.context.scopes.values():
            if scope.kind == "cgroup" and not scope.own and scope.pid:
                self.records.append(self.cgroups.namespace(scope.ns_id, scope.pid))
        for kind in load_sandbox_kinds():
            for scope in self.context.scopes.values():
                dead = scope.kind == "pid" and not scope.pid
                if scope.kind == kind.namespace and not scope.external and not dead:
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

    def _collect_trees(self) -> None:
        upper = self.target.overlay_upper
        if upper is not None:
            device = os.stat(self.files.root).st_dev
            self.trees.append(scan_tree(self.context, "overlay", "/", str(upper), seen_as=device))
        seen = set()
        if self.files.mounts.entries:
            for tops in self.files.mounts.trees.values():
                for tree in tops:
                    self.trees.append(
                        scan_tree(
                            self.context,
                            "tmpfs",
                            tree.point,
                            tree.path,
                            fs_id=tree.fs_id,
                            root=tree.root,
                        )
                    )
            return
        for mount in self.files.mounts.mounts.values():
            writable_tmpfs = mount.fstype == "tmpfs" and "ro" not in mount.options.split(",")
            if not writable_tmpfs or mount.root != "/" or mount.device in seen:
                continue
            top = self.files.root + mount.point
            # A mount on top of it hides it: what is seen there is not this tmpfs.
            if os.stat(top).st_dev == mount.device:
                seen.add(mount.device)
                self.trees.append(scan_tree(self.context, "tmpfs", mount.point, top))

    def thaw(self) -> None:
        """Let the program go on, and its peers talk to it."""
        self.close()
        self.frozen.close()
        self.target.hold.release()
        self.report.frozen_ns = time.monotonic_ns() - self.began
