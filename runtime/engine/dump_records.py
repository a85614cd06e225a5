"""Processes into records."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from formats.records.task import (
    Descriptor,
    Directories,
    Process,
    ResourceLimit,
    Table,
    Thread,
)
from runtime.engine.cgroup_tree import CgroupDump
from runtime.engine.context import DumpContext
from runtime.engine.cow import Pages
from runtime.engine.files.table import FileTable
from runtime.engine.live_process import LiveProcess
from runtime.engine.mappings import dump_address_space
from runtime.engine.questions import credentials
from runtime.engine.scopes import Scopes
from runtime.engine.sharing import FILES, FS, IO, MM, SIGHAND, UNDO, Sharing
from runtime.kernel import proc_task
from runtime.kernel.procfs import read_text


class ProcessRecords:
    """Makes a record of each process, and one of each address space.

    Args:
        context, files, scopes, cgroups: Of the dump.
        sharing: Which processes share what.

    Attributes:
        spaces: The address spaces of all processes so far.
    """

    def __init__(
        self,
        context: DumpContext,
        files: FileTable,
        scopes: Scopes,
        cgroups: CgroupDump,
        sharing: Sharing,
    ) -> None:
        self.spaces: list[Pages] = []
        self._context = context
        self._files = files
        self._scopes = scopes
        self._cgroups = cgroups
        self._sharing = sharing

    def record(self, process: LiveProcess) -> Process:
        """The record of a process, which may be a zombie."""
        return Process(**self._ids(process)) if process.zombie else self._process(process)

    def _ids(self, process: LiveProcess) -> dict[str, Any]:
        """What zombies have too."""
        pid, stat = process.pid, process.stat
        pgid, sid = self._inside(stat.pgrp, "NSpgid"), self._inside(stat.session, "NSsid")
        ended = process.zombie or process.leader_exited
        return {
            "pid": self._context.ns_pids[pid],
            "ppid": self._context.ns_pids.get(process.parent, 0),
            "pgid": pgid[0],
            "sid": sid[0],
            "exit_signal": stat.exit_signal,
            "comm": stat.comm,
            "nested_pids": self._context.nested_pids[pid],
            "nested_pgid": pgid[1:],
            "nested_sid": sid[1:],
            "parent_tid": (
                0
                if process.parent_tid == process.parent
                else self._context.ns_pids[process.parent_tid]
            ),
            "namespaces": self._scopes.of(process.view).nested,
            "zombie": process.zombie,
            "leader_exited": process.leader_exited,
            "exit_status": stat.exit_code if ended else 0,
            "credentials": credentials(self._scopes, self._context.status(pid), 0)
            if ended
            else None,
        }

    def _process(self, process: LiveProcess) -> Process:
        pid, answers = process.pid, process.answers
        assert answers is not None
        numbers = self._sharing.number
        view = process.view
        mm_id = numbers(MM, view)
        if self._sharing.is_first(MM, view):
            space = dump_address_space(self._context, self._files, process, mm_id)
            self.spaces.append(Pages(view, process.parent, space, self._resident(view)))
        own = self._directories(view)
        return Process(
            **self._ids(process),
            stopped=self._context.frozen.group_stops.get(pid, 0),
            stop_reported=pid not in self._context.unreported_stops,
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
            personality=int(read_text(f"/proc/{view}/personality"), 16),
            dumpable=answers.dumpable,
            child_subreaper=answers.child_subreaper,
            thp_disabled=answers.thp_disabled,
            oom_score_adj=int(read_text(f"/proc/{pid}/oom_score_adj")),
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
            semaphore_undo=process.semaphore_undo if self._sharing.is_first(UNDO, view) else (),
            settings=process.settings,
        )

    def _resident(self, tid: int) -> int:
        """Bytes of anonymous memory, in memory and swapped out (man 5 proc_pid_status)."""
        fields = self._context.status(tid).fields
        return sum(int(fields.get(n, "0").split()[0]) << 10 for n in ("RssAnon", "VmSwap"))

    def _with_own(self, process: LiveProcess, tid: int, thread: Thread) -> Thread:
        """A thread's record with its cgroups, and what it does not share with its leader."""
        thread = dataclasses.replace(thread, cgroups=self._cgroups.of(tid))
        if tid == process.view:
            return thread
        if self._sharing.number(FS, tid):
            thread = dataclasses.replace(thread, directories=self._directories(tid))
        files_id = self._sharing.number(FILES, tid)
        if files_id:
            thread = dataclasses.replace(thread, table=Table(files_id, self._table(tid)))
        return thread

    def _table(self, tid: int) -> tuple[Descriptor, ...]:
        return self._files.descriptors(tid) if self._sharing.is_first(FILES, tid) else ()

    def _directories(self, tid: int) -> Directories:
        return Directories(
            fs_id=self._sharing.number(FS, tid),
            cwd=os.readlink(f"/proc/{tid}/cwd"),
            root=os.readlink(f"/proc/{tid}/root"),
            cwd_file_id=self._files.add_directory(tid, "cwd"),
            root_file_id=self._root(tid),
            umask=int(self._context.status(tid).fields["Umask"], 8),
        )

    def _inside(self, number: int, key: str) -> tuple[int, ...]:
        """A group or session of our pid namespace in the container's and those below it.

        0 stands for one outside. Where its leader is gone, any member's status lists the ids.
        """
        if number in self._context.ns_pids:
            return (self._context.ns_pids[number], *self._context.nested_pids[number])
        if number:
            for member in self._context.frozen.pids:
                ids = self._context.status(member).ints(key)
                if ids[0] == number:
                    return ids[self._context.depth :] or (0,)
        return (0,)

    def _root(self, tid: int) -> int:
        if os.path.samefile(f"/proc/{tid}/root", self._files.root):
            return 0
        return self._files.add_directory(tid, "root")
