"""Dump: a running container into an image, in one frozen section.

The order is: freeze; look at everything and collect what cannot be saved; only then write. The
container stays frozen while the caller makes the image durable, and goes on afterwards unless
the caller has killed it. Any failure lets it go on as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from formats.elsewhere import elsewhere_records
from formats.records.codec import Record, prepare
from formats.records.files import DeletedFile
from formats.records.image import Image
from formats.records.memory import Backing, Staging
from formats.records.task import (
    Descriptor,
    Directories,
    Process,
    ResourceLimit,
    Table,
    Thread,
)
from formats.staged import staged_records
from formats.statefile import ImageWriter
from runtime.engine import dump_memory
from runtime.engine.api import DumpReport, DumpTarget, Progress, no_progress
from runtime.engine.cgroup_tree import CgroupDump, CgroupHomes
from runtime.engine.context import DumpContext
from runtime.engine.cow import Pages, by_birth, share_pages
from runtime.engine.dump_tasks import check_tasks, collect_tree, dump_process
from runtime.engine.files.kind import load_kinds
from runtime.engine.files.table import FileTable, open_again
from runtime.engine.freeze import Frozen, frozen, has_sleepers
from runtime.engine.held_namespaces import collect_held
from runtime.engine.host_facts import describe_host
from runtime.engine.kinship import Kinship
from runtime.engine.live_process import LiveProcess
from runtime.engine.mappings import dump_address_space
from runtime.engine.questions import credentials
from runtime.engine.ranges import PageRun, Range, common, gaps, size_of, union, without
from runtime.engine.sandbox.kind import load_sandbox_kinds
from runtime.engine.scopes import Scopes
from runtime.engine.sharing import FILES, FS, IO, MM, SIGHAND, UNDO, Sharing
from runtime.engine.task_settings import check_label, check_landlock, may_be_confined
from runtime.engine.terminal_dump import TerminalTable
from runtime.engine.trees import TreeDump, scan_tree, write_tree
from runtime.engine.twins import WORTHWHILE, Twins, have_room, left_behind
from runtime.engine.urgency import urgent
from runtime.errors import CheckpointError, RefusedError
from runtime.kernel import proc_maps, proc_task
from runtime.kernel.landlock import landlock_domains
from runtime.kernel.restart_block import restart_blocks
from runtime.version import VERSION

if TYPE_CHECKING:
    from runtime.engine.incremental import Incremental, Part
    from runtime.engine.precopy import PreCopy

REFUSED = ()

log = logging.getLogger(__name__)

WORTH_ASKING = 256 << 10
"""Bytes of an address space; less is sent at once."""
WORTHWHILE_FOR_REST = 24 << 20
"""Bytes left to read of memory that was read ahead, from which on a fork takes less time."""

PASSING = frozenset(
    {
        *("aio-in-flight", "fanotify-queue", "inotify-queue", "netlink-queue"),
        *("tcp-in-flight", "tcp-orphan", "unix-error", "unix-pending-data"),
    }
)
"""Refusals of what the program does away with itself, as a rule within moments."""


def warm_up() -> None:
    """Do all that can be done before a freeze: the container waits for every import later."""
    load_kinds()
    load_sandbox_kinds()
    prepare()


@contextlib.contextmanager
def dumped(
    target: DumpTarget,
    writer: ImageWriter,
    progress: Progress = no_progress,
    *,
    goes_on: bool = False,
    precopy: PreCopy | None = None,
    postcopy: bool = False,
    incremental: Incremental | None = None,
) -> Iterator[DumpReport]:
    """Freeze a container and write it; the ``with`` block runs while it is still frozen.

    On entry the image is complete in the writer's sink. Inside the block the caller makes it
    durable and may kill the container. On the way out every task that is left goes on.

    Args:
        target: The container.
        writer: Where its image goes; this finishes it.
        progress: Told what is being done.
        goes_on: The container goes on in any case. Then it need not stand still for as long as
            its memory takes to be written (see `runtime.engine.twins`), and runs when the block
            does.
        precopy: The rounds that have come before; what they have staged is not written again.
        postcopy: Leave out what can be asked for later, from the container while it stays frozen.
        incremental: The same for a snapshot, whose rounds have gone into *writer*.

    Raises:
        RefusedError: Something cannot be saved; names everything that was found.
        CheckpointError: The kernel refused a step, or a task did not stop.
    """
    report = DumpReport()
    goes_on = goes_on and not target.cgroups.frozen  # a paused one does not care
    if incremental is not None and not goes_on:
        incremental.close()
        incremental = None
    warm_up()
    progress("freeze", 0, 0)
    with contextlib.ExitStack() as held:
        hurry = held.enter_context(contextlib.ExitStack())
        if goes_on:
            hurry.enter_context(urgent())
        dump = _freeze_and_look(held, target, report, precopy, postcopy, incremental)
        with dump.watched():
            written = time.monotonic_ns()
            dump.write_still(writer, progress)
            if goes_on:
                held.callback(dump.end_twins)
                dump.keep_memory(writer, progress)
                dump.thaw()
                hurry.close()
            dump.write_memory(writer, progress)
            writer.finish()
            report.write_ns = time.monotonic_ns() - written
        dump.close()
        yield report
    report.frozen_ns = report.frozen_ns or time.monotonic_ns() - dump.began
    log.info(
        "%s: froze in %.1f ms, looked for %.1f ms, wrote %d bytes of memory in %.1f ms",
        target.container_id,
        report.freeze_ns / 1e6,
        report.collect_ns / 1e6,
        report.memory_bytes,
        report.write_ns / 1e6,
    )


def _freeze_and_look(
    held: contextlib.ExitStack,
    target: DumpTarget,
    report: DumpReport,
    precopy: PreCopy | None,
    postcopy: bool,
    incremental: Incremental | None,
) -> _Dump:
    """Freeze and collect, again if what stands in the way is gone as soon as the program goes on.

    Args:
        held: Takes the frozen section of the attempt that has succeeded.
        target: What to freeze.
        report: Gets the times of that attempt.
        precopy: The rounds before, or None.
        postcopy: Leave out what can be asked for later.
        incremental: Those of a snapshot, or None.
    """
    paused = target.cgroups.frozen  # then nothing goes on
    deadline = time.monotonic() + target.options.timeout_s
    for attempt in itertools.count(1):
        if has_sleepers(target.cgroups):
            restart_blocks()  # now, for to load it takes a while
        if may_be_confined(target.cgroups.pids()):
            landlock_domains()  # likewise
        began = time.monotonic_ns()
        with contextlib.ExitStack() as section:
            state = section.enter_context(
                frozen(target.cgroups, target.container_id, timeout_s=target.options.timeout_s)
            )
            looked = time.monotonic_ns()
            dump = _Dump(target, state, report, began, precopy, postcopy, incremental)
            try:
                with dump.watched():
                    dump.collect()
            except RefusedError as exc:
                late = time.monotonic() > deadline
                if late or paused or not {r.reason for r in exc.refusals} <= PASSING:
                    raise
                log.debug("%s: attempt %d: %s", target.container_id, attempt, exc)
            else:
                report.freeze_ns = looked - began
                report.collect_ns = time.monotonic_ns() - looked
                dump.frozen = section.pop_all()
                held.push(dump.frozen)
                return dump
        time.sleep(min(0.001 * attempt, 0.02))
    raise AssertionError("itertools.count has an end")


class _Dump:
    """One dump under way."""

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
        self._parts: dict[int, Part] = {}  # read ahead, by ``mm_id``
        self.staged: list[Record] = []  # and of what is elsewhere
        self.began = began  # time.monotonic_ns()
        self.context = DumpContext(target, state)
        self.report = report
        self.files = FileTable(self.context)
        self.spaces: list[Pages] = []
        self.processes: list[Process] = []
        self.trees: list[TreeDump] = []
        self.records: list[Record] = []  # of namespaces and what they hold
        self.scopes = Scopes(self.context)
        self.homes = CgroupHomes(target.cgroups.directories_by_hierarchy())
        self.cgroups = CgroupDump(self.context, self.homes)
        self.frozen = contextlib.ExitStack()
        self.twins = Twins(self.context)
        self._kept: dict[int, list[Range]] = {}  # by the object id of shared memory
        self._done = self._total = 0  # bytes of memory
        self._left: list[tuple[Pages, int]] = []  # with the task to read from
        self._left_of_parts: list[tuple[Part, int, list[Range]]] = []  # the same

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

    # Looking

    def collect(self) -> None:
        """Make every record; raise with everything that cannot be saved."""
        tree = collect_tree(self.context, self.scopes)
        self.host = describe_host(self.target.init_pid, 0)
        self.context.clock_ns = time.monotonic_ns()
        living = [process for process in tree if not process.zombie]
        check_tasks(self.context)
        self._raise_refusals()
        for process in living:
            check_label(self.context, process.view)
            check_landlock(self.context, process.view)
            process.mappings = proc_maps.mappings(process.view)
            self.context.mappings[process.view] = process.mappings
            dump_process(self.context, process, self.scopes)
            self.context.live[process.view] = process
        collect_held(self.context, self.scopes, [process.view for process in living])
        self._collect_sandbox()
        self.sharing = Sharing(self.context, living)
        self._find_tracked(living)
        self.files.collect(self.sharing.first(FILES))
        TerminalTable.of(self.files).collect([process.pid for process in living])
        for process in tree:
            self.processes.append(
                Process(**self._ids(process)) if process.zombie else self._process(process)
            )
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
                kept = self._kept[shared.object_id] = self.precopy.kept_shared(key, path)
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
                    self._parts[pages.space.mm_id] = part

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

    def _ids(self, process: LiveProcess) -> dict[str, Any]:
        """What zombies have too."""
        pid, stat = process.pid, process.stat
        pgid, sid = self._inside(stat.pgrp, "NSpgid"), self._inside(stat.session, "NSsid")
        ended = process.zombie or process.leader_exited
        return {
            "pid": self.context.ns_pids[pid],
            "ppid": self.context.ns_pids.get(process.parent, 0),
            "pgid": pgid[0],
            "sid": sid[0],
            "exit_signal": stat.exit_signal,
            "comm": stat.comm,
            "nested_pids": self.context.nested_pids[pid],
            "nested_pgid": pgid[1:],
            "nested_sid": sid[1:],
            "parent_tid": (
                0
                if process.parent_tid == process.parent
                else self.context.ns_pids[process.parent_tid]
            ),
            "namespaces": self.scopes.of(process.view).nested,
            "zombie": process.zombie,
            "leader_exited": process.leader_exited,
            "exit_status": stat.exit_code if ended else 0,
            "credentials": credentials(self.scopes, self.context.status(pid), 0) if ended else None,
        }

    def _process(self, process: LiveProcess) -> Process:
        pid, answers = process.pid, process.answers
        assert answers is not None
        numbers = self.sharing.number
        view = process.view
        mm_id = numbers(MM, view)
        if self.sharing.is_first(MM, view):
            space = dump_address_space(self.context, self.files, process, mm_id)
            self.spaces.append(Pages(view, process.parent, space, self._resident(view)))
        own = self._directories(view)
        return Process(
            **self._ids(process),
            stopped=self.context.frozen.group_stops.get(pid, 0),
            stop_reported=pid not in self.context.unreported_stops,
            mm_id=mm_id,
            files_id=numbers(FILES, view),
            fs_id=own.fs_id,
            sighand_id=numbers(SIGHAND, view),
            undo_id=numbers(UNDO, view),
            io_id=numbers(IO, view),
            cwd=own.cwd,
            root=own.root,
            cwd_file_id=own.cwd_file_id,
            root_file_id=own.root_file_id,
            umask=own.umask,
            personality=int(_read(f"/proc/{view}/personality"), 16),
            dumpable=answers.dumpable,
            child_subreaper=answers.child_subreaper,
            thp_disabled=answers.thp_disabled,
            oom_score_adj=int(_read(f"/proc/{pid}/oom_score_adj")),
            limits=tuple(ResourceLimit(*limit) for limit in proc_task.limits(pid)),
            actions=answers.actions,
            pending=process.pending,
            interval_timers=answers.interval_timers,
            posix_timers=answers.posix_timers,
            threads=tuple(
                self._with_own(process, tid, thread)
                for tid, thread in zip(process.tids, process.threads, strict=True)
            ),
            descriptors=self._table(view),
            semaphore_undo=process.semaphore_undo if self.sharing.is_first(UNDO, view) else (),
            settings=process.settings,
        )

    def _resident(self, tid: int) -> int:
        """Bytes of anonymous memory, in memory and swapped out (man 5 proc_pid_status)."""
        fields = self.context.status(tid).fields
        return sum(int(fields.get(n, "0").split()[0]) << 10 for n in ("RssAnon", "VmSwap"))

    def _with_own(self, process: LiveProcess, tid: int, thread: Thread) -> Thread:
        """A thread's record with its cgroups, and what it does not share with its leader."""
        thread = dataclasses.replace(thread, cgroups=self.cgroups.of(tid))
        if tid == process.view:
            return thread
        if self.sharing.number(FS, tid):
            thread = dataclasses.replace(thread, directories=self._directories(tid))
        files_id = self.sharing.number(FILES, tid)
        if files_id:
            thread = dataclasses.replace(thread, table=Table(files_id, self._table(tid)))
        return thread

    def _table(self, tid: int) -> tuple[Descriptor, ...]:
        return self.files.descriptors(tid) if self.sharing.is_first(FILES, tid) else ()

    def _directories(self, tid: int) -> Directories:
        return Directories(
            fs_id=self.sharing.number(FS, tid),
            cwd=os.readlink(f"/proc/{tid}/cwd"),
            root=os.readlink(f"/proc/{tid}/root"),
            cwd_file_id=self.files.add_directory(tid, "cwd"),
            root_file_id=self._root(tid),
            umask=int(self.context.status(tid).fields["Umask"], 8),
        )

    def _inside(self, number: int, key: str) -> tuple[int, ...]:
        """A group or session of our pid namespace in the container's and those below it.

        0 stands for one outside. Where its leader is gone, any member's status lists the ids.
        """
        if number in self.context.ns_pids:
            return (self.context.ns_pids[number], *self.context.nested_pids[number])
        if number:
            for member in self.context.frozen.pids:
                ids = self.context.status(member).ints(key)
                if ids[0] == number:
                    return ids[self.context.depth :] or (0,)
        return (0,)

    def _root(self, tid: int) -> int:
        if os.path.samefile(f"/proc/{tid}/root", self.files.root):
            return 0
        return self.files.add_directory(tid, "root")

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

    # Writing

    def write_still(self, writer: ImageWriter, progress: Progress) -> None:
        """Put all records into the image, and all contents but most of the private memory."""
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
        for record in self.staged:
            writer.add_record(record)
        self._write_contents(writer, progress)

    def _write_contents(self, writer: ImageWriter, progress: Progress) -> None:
        self._total = self._memory_size()
        for tree in self.trees:
            if tree.tree.kind == "overlay":  # needed before there is any process
                write_tree(writer, tree)
        for pages in by_birth(self.spaces):
            if pages.space.early_id:
                runs, early_id = pages.own(early=True), pages.space.early_id
                self._write_pages(writer, early_id, pages.pid, runs, progress, pages.related)
        for tree in self.trees:
            if tree.tree.kind != "overlay":
                write_tree(writer, tree)
        for deleted, path in self.files.deleted.values():
            if stat.S_ISREG(deleted.mode) and not deleted.other_name:
                self._write_file(writer, deleted, path)
        progress("memory", self._done, self._total)
        for shared, path in self.files.shared.values():
            fd = open_again(path)
            try:
                kept = self._kept.get(shared.object_id, ())
                self._done += dump_memory.write_shared_memory(writer, shared, fd, kept)
            finally:
                os.close(fd)
            progress("memory", self._done, self._total)
        self._left = [(pages, pages.pid) for pages in self.spaces]

    def keep_memory(self, writer: ImageWriter, progress: Progress) -> None:
        """Have the private memory kept as it is, or write it at once: the program is to go on."""
        self._left.clear()
        wanted = [pages.pid for pages in self.spaces if self._deserves_twin(pages)]
        twins: dict[int, int | None] = {}
        # There must be room for what the program writes to before its memory is stored.
        if wanted and have_room(self.target.cgroups, self._total):
            with self.twins.numbered_apart(self.records):
                twins = {pid: self.twins.make(self.context.live[pid]) for pid in wanted}
        for pages in self.spaces:
            twin = twins.get(pages.pid)
            apart = left_behind(pages.space)
            part = self._parts.get(pages.space.mm_id)
            if part is not None:
                self._keep_part(pages, part, twin, apart)
                continue
            now = pages.own() if twin is None else pages.own_within(apart)
            self._write_pages(
                writer, pages.space.mm_id, pages.pid, now, progress, gently=pages.related
            )
            if twin is not None:
                self._left.append((pages, twin))
        writer.drain()
        if self.incremental is not None:
            self.incremental.arm(self._parts.values())

    def _keep_part(self, pages: Pages, part: Part, twin: int | None, apart: list[Range]) -> None:
        assert self.incremental is not None
        now = part.rest
        if twin is not None:
            now = common(part.rest, self.incremental.pieces_around(apart))
            self._left_of_parts.append((part, twin, list(gaps(part.rest, now))))
        self.incremental.read(part, pages.pid, now)

    def _deserves_twin(self, pages: Pages) -> bool:
        own = self.scopes.of(pages.pid)
        if own.pid_for_children or own.time_for_children:
            return False  # it would be the first in a namespace, and its end that of the namespace
        part = self._parts.get(pages.space.mm_id)
        if part is not None:
            return part.rest_bytes >= WORTHWHILE_FOR_REST
        return pages.resident >= WORTHWHILE

    def thaw(self) -> None:
        """Let the program go on, and its peers talk to it."""
        self.close()
        self.frozen.close()
        self.target.hold.release()
        self.report.frozen_ns = time.monotonic_ns() - self.began

    def end_twins(self) -> None:
        """Remove the twins, when the program goes on."""
        self.frozen.close()
        self.twins.end(self.target.cgroups)

    def write_memory(self, writer: ImageWriter, progress: Progress) -> None:
        """Put the rest of the private memory into the image."""
        for pages, pid in self._left:
            is_twin = pid != pages.pid
            apart = left_behind(pages.space) if is_twin else []
            runs = without(pages.own_of(pid), apart)
            # To read a twin in the quick way would give it pages of its own.
            gently = pages.related or is_twin
            self._write_pages(writer, pages.space.mm_id, pid, runs, progress, gently)
        if self.incremental is not None:
            for part, twin, runs_left in self._left_of_parts:
                self.incremental.read(part, twin, runs_left)
            for mm_id, part in self._parts.items():
                self._done += self.incremental.add(part, mm_id)
                self.report.ahead_bytes += size_of(part.kept)
                progress("memory", self._done, self._total)
        self.report.memory_bytes = self._done

    def _write_pages(
        self,
        writer: ImageWriter,
        object_id: int,
        pid: int,
        runs: Iterable[PageRun],
        progress: Progress,
        gently: bool,
    ) -> None:
        base = self._done
        write = dump_memory.write_private_pages
        for added in write(writer, object_id, pid, runs, gently=gently):
            self._done = base + added
            progress("memory", self._done, self._total)

    @staticmethod
    def _write_file(writer: ImageWriter, deleted: DeletedFile, path: str) -> None:
        fd = open_again(path)
        try:
            dump_memory.write_file_pages(writer, deleted.object_id, fd, deleted.size)
        finally:
            os.close(fd)

    def _memory_size(self) -> int:
        """How many bytes of memory there are to write at most, for a progress bar."""
        private = sum(pages.resident for pages in self.spaces)
        return private + sum(shared.size for shared, _ in self.files.shared.values())


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()
