"""The end of a restore: what takes privileges away or starts a clock, and the last of our calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from formats.records.image import Host
from formats.records.task import Directories
from runtime.engine import restore_threads, task_settings
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.host_facts import clock_since
from runtime.engine.install_files import enter_directories, install_descriptors, tables_of
from runtime.engine.new_namespaces import NewNamespaces
from runtime.engine.new_task import NewTask
from runtime.engine.remote import SCRATCH_SIZE
from runtime.engine.restore_threads import RestoredProcess
from runtime.engine.restore_timers import restore_timers
from runtime.errors import RestoreError


class Completion:
    """Turns stubs with memory into what was saved.

    Args:
        files: All of them, open.
        processes: The living ones, in the order of the image.
        namespaces: Those that programs had made.
        host: The image's.
        hole: Address of the scratch area.
    """

    def __init__(
        self,
        files: RestoredFiles,
        processes: Sequence[RestoredProcess],
        namespaces: NewNamespaces,
        host: Host,
        hole: int,
    ) -> None:
        self._files = files
        self._processes = processes
        self._namespaces = namespaces
        self._host = host
        self._hole = hole
        self._sharers = Counter(process.record.mm_id for process in processes)

    def restore_state(self) -> None:
        """Directories, handlers, descriptors; every task keeps its privileges."""
        self._restore_directories()
        for process in self._processes:
            restore_threads.restore_state(process)
        for process in self._processes:
            for task, table in tables_of(process):
                install_descriptors(task, table, self._files.channel, self._files)

    def restore_rights(self) -> None:
        """Settings, filters, credentials and limits."""
        cores: dict[int, NewTask] = {}
        for process in self._processes:
            settings = process.record.settings
            task_settings.restore_settings(process.leader, settings, self._files.channel)
        for process in self._processes:
            for task, thread in zip(process.tasks, process.record.threads, strict=True):
                task_settings.restore_task_settings(task, thread.settings, cores)
            restore_threads.restore_filters(process)
            restore_threads.restore_rights(process, self._translator, self._files.tables)

    def hand_over(self) -> None:
        """Signals, timers, stops, registers: afterwards no call of ours can be made any more."""
        # A stop is reported to the parent, who must still be able to swallow that: children first.
        stopped = [process for process in reversed(self._processes) if process.record.stopped]
        running = [process for process in self._processes if not process.record.stopped]
        reported = [process for process in stopped if process.record.stop_reported]
        for process in stopped:
            self._settle_signals(process, reported)
            self._hand_over(process)
            restore_threads.stop_process(process)
        for process in running:
            self._settle_signals(process, reported)
        for process in running:
            self._hand_over(process)

    def _restore_directories(self) -> None:
        """Where tasks are, once for all that share it."""
        done: set[int] = set()
        for process in self._processes:
            record = process.record
            own = Directories(
                record.fs_id,
                record.cwd,
                record.root,
                record.cwd_file_id,
                record.root_file_id,
                record.umask,
            )
            for task, thread in zip(process.tasks, record.threads, strict=True):
                wanted = thread.directories or own
                if wanted.fs_id not in done:
                    done.add(wanted.fs_id)
                    enter_directories(task, wanted, self._files.channel, self._files)

    def _translator(self, task: NewTask) -> Callable[[str, int], int]:
        def translate(kind: str, number: int) -> int:
            inside = self._namespaces.id_inside(task.within["user"], kind, number)
            if inside is None:
                raise RestoreError(
                    f"task {task.ns_pid} has {kind} {number}, which its user namespace lacks",
                    reason="image-inconsistent",
                )
            return inside

        return translate

    @staticmethod
    def _settle_signals(process: RestoredProcess, reported: list[RestoredProcess]) -> None:
        for child in reversed(reported):
            if child.record.ppid == process.record.pid:
                restore_threads.swallow_stop(process, child)
        for task in process.tasks:
            restore_threads.flush_signals(task)
        restore_threads.queue_signals(process)
        restore_threads.end_leader(process)

    def _hand_over(self, process: RestoredProcess) -> None:
        """From here on no batch can run in the process."""
        elapsed = clock_since(self._host, self._files.init.pid)
        restore_timers(process.record, process.tasks, elapsed)
        task_settings.restore_autogroup(process.leader, process.record.settings)
        for task, thread in zip(process.tasks, process.record.threads, strict=True):
            of_process = process.record.settings if task is process.leader else None
            task_settings.restrict(task, thread.settings, of_process)
        registers = [
            restore_threads.resume_sleep(task, thread, elapsed)
            for task, thread in zip(process.tasks, process.record.threads, strict=True)
        ]
        restore_threads.queue_traps(process)
        self._sharers[process.record.mm_id] -= 1
        if not self._sharers[process.record.mm_id]:
            leader = process.leader
            # The instruction vanishes under the call, which stops before the next one is fetched.
            leader.call_at(leader.syscall_instruction, "munmap", self._hole, SCRATCH_SIZE)
            leader.settle()
        threads = process.record.threads
        for task, thread, where in zip(process.tasks, threads, registers, strict=True):
            restore_threads.restore_registers(task, thread, where)
            task_settings.restore_dispatch(task, thread.settings)
            if not process.record.stopped:
                restore_threads.restore_sigmask(task, thread)
