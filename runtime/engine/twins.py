"""Twins: forks of frozen processes that keep their memory as it is, while the program goes on.

A *twin* is a child that a batch makes its process fork. It never runs an instruction of the
program: it is traced from birth and stays stopped until it is killed. Because the kernel copies
a page only when the program writes to it, a freeze lasts as long as copying page tables takes, and
the pages themselves are read from the twin at leisure.

What a fork does not take along is read during the freeze: shared memory, and mappings that are not
inherited (MADV_DONTFORK), are wiped (MADV_WIPEONFORK) or come from a pool of huge pages.

The program sees little of it: a twin's number is far above those that come next, and for a moment a
tool that lists processes shows it. The twin's parent, who gets no signal, takes the corpse away in
a second, very short freeze. Should we be killed, the kernel kills the twin; in the moment before
that is arranged it waits in futex(2), and its parent's next call would be to kill it.

Pages that the program writes to exist twice until then. Where a limit of memory leaves no room for
that, there are no twins. Nor has a process one whose memory is read in the time that a fork takes:
these are many as a rule, and may end soon; then their twin would become an orphan, which the
container's init or subreaper is told of.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from formats.records.codec import Record
from formats.records.memory import AddressSpace
from formats.records.sandbox import LastPid
from runtime.engine.api import Freezer
from runtime.engine.arch import current as arch
from runtime.engine.borrowing import borrowed, find_syscall_instruction, look, scratch_area
from runtime.engine.context import DumpContext
from runtime.engine.freeze import OPTIONS, frozen, undisturbed
from runtime.engine.last_pid import set_last_pid
from runtime.engine.live_process import LiveProcess
from runtime.engine.ranges import Range
from runtime.engine.remote import Batch, CallFailedError, Tracee
from runtime.errors import CheckpointError, RefusedError, TaskVanishedError
from runtime.kernel import proc_maps, process_vm, ptrace
from runtime.kernel.procfs import read_text

log = logging.getLogger(__name__)

_CLONE_ARGS = struct.Struct("<11Q")  # struct clone_args, include/uapi/linux/sched.h
_FUTEX_WAIT = 0x80  # FUTEX_WAIT | FUTEX_PRIVATE_FLAG, include/uapi/linux/futex.h
_MADV_DONTFORK, _MADV_WIPEONFORK = 10, 18  # include/uapi/asm-generic/mman-common.h
WORTHWHILE = 4 << 20  # bytes
_APART = 4096
_REFUSALS = (errno.EAGAIN, errno.ENOMEM, errno.EPERM)
_LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


@dataclass(frozen=True, slots=True)
class _Twin:
    """A fork.

    Attributes:
        tid: In our pid namespace.
        parent: The process that made it, in our pid namespace.
        inside: Its id as its parent knows it.
        instruction: Address of a system-call instruction in both.
    """

    tid: int
    parent: int
    inside: int
    instruction: int


class Twins:
    """The twins of one dump.

    Args:
        context: The dump.
    """

    def __init__(self, context: DumpContext) -> None:
        self._context = context
        self._twins: list[_Twin] = []

    def make(self, process: LiveProcess) -> int | None:
        """Make a twin of a frozen process.

        Returns:
            Its id in our pid namespace; None when a limit forbids another process.
        """
        leader = self._context.frozen.threads(process.pid)[0]
        batch = Batch()
        room = batch.data(bytes(4))
        child = batch.call("clone3", bytes(_CLONE_ARGS.size), _CLONE_ARGS.size, may_fail=True)
        # Who sees 0 here is the child: it waits for ever. The parent's result is another value.
        batch.call("futex", room, _FUTEX_WAIT, child, 0, 0, 0, may_fail=True)
        # In the child's eyes there is nobody to be killed by this.
        kill = batch.call("tgkill", child, child, signal.SIGKILL, may_fail=True)

        def keep(tid: int) -> None:
            ptrace.set_options(tid, ptrace.PTRACE_O_EXITKILL)
            leader.skip(kill)

        with undisturbed(), scratch_area(process, leader):
            ptrace.set_options(leader.tid, OPTIONS | ptrace.PTRACE_O_TRACECLONE)
            leader.on_birth = keep
            try:
                inside = leader.run(batch)[child]
            finally:
                ptrace.set_options(leader.tid, OPTIONS)
            if inside < 0:
                if -inside not in _REFUSALS:
                    raise CallFailedError(-inside, f"no twin of task {leader.tid}")
                log.info("no twin of task %d: %s", leader.tid, os.strerror(-inside))
                return None
            (tid,) = leader.born
        instruction = find_syscall_instruction(process.view, process.mappings)
        self._twins.append(_Twin(tid, leader.pid, inside, instruction))
        return tid

    @contextlib.contextmanager
    def numbered_apart(self, records: Iterable[Record]) -> Iterator[None]:
        """Twins that are made in the block do not change which pid comes next.

        Args:
            records: Of the image; they say where each pid namespace has come to in counting.
        """
        by_id = {scope.ns_id: scope for scope in self._context.scopes.values()}
        counters = {r.ns_id: r.last_pid for r in records if isinstance(r, LastPid)}
        greatest = int(read_text("/proc/sys/kernel/pid_max"))
        for ns_id in counters:
            set_last_pid(by_id[ns_id].pid, max(greatest - _APART, greatest // 2))
        try:
            yield
        finally:
            for ns_id, last in counters.items():
                set_last_pid(by_id[ns_id].pid, last)

    def end(self, cgroups: Freezer) -> None:
        """Kill the twins and have their parents forget them; the program is running again."""
        twins, self._twins = self._twins, []
        for twin in twins:
            with contextlib.suppress(ProcessLookupError):
                os.kill(twin.tid, signal.SIGKILL)
        for twin in twins:
            with contextlib.suppress(ChildProcessError):
                while not ptrace.wait_stop(twin.tid).gone:  # type: ignore[union-attr]  # it blocks
                    pass
        if twins:
            try:
                with frozen(cgroups, self._context.target.container_id) as state:
                    for twin in twins:
                        if twin.parent in state.tracees:
                            _bury(state.threads(twin.parent)[0], twin)
            except (CheckpointError, RefusedError) as exc:
                # Its parent's end takes it away.
                log.warning("a fork of ours stays behind as a zombie: %s", exc)


def _bury(parent: Tracee, twin: _Twin) -> None:
    """Have a parent wait for its twin, whose end it was not told of."""
    with contextlib.suppress(ProcessLookupError, TaskVanishedError, CallFailedError):
        instruction = _valid(parent, twin.instruction)
        saved = look(parent)
        with undisturbed(), borrowed(parent, saved):
            parent.call_at(instruction, "wait4", twin.inside, 0, os.WNOHANG | ptrace.WALL, 0)


def _valid(parent: Tracee, instruction: int) -> int:
    """The instruction, or another one where the program has changed its memory meanwhile."""
    wanted = arch.SYSCALL_INSTRUCTION
    with contextlib.suppress(OSError):
        if process_vm.read(parent.tid, instruction, len(wanted)) == wanted:
            return instruction
    return find_syscall_instruction(parent.tid, proc_maps.mappings(parent.tid))


def left_behind(space: AddressSpace) -> list[Range]:
    """The parts of an address space whose content a fork does not have."""
    return [
        (vma.start, vma.end)
        for vma in space.vmas
        if vma.huge_page_size or {_MADV_DONTFORK, _MADV_WIPEONFORK} & set(vma.advice)
    ]


def have_room(cgroups: Freezer, size: int) -> bool:
    """Whether the container and the host can hold *size* bytes more, were all of it written to."""
    directories = cgroups.directories_by_hierarchy()
    return size <= _available() and all(
        size <= free for directory in directories.values() for free in _free_below_limits(directory)
    )


def _available() -> int:
    for line in read_text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def _free_below_limits(directory: Path) -> Iterator[int]:
    """What each memory limit of a cgroup and of those above it leaves, in bytes."""
    while directory != directory.parent:
        for limit, usage in _LIMITS:
            with contextlib.suppress(FileNotFoundError):
                allowed = read_text(f"{directory}/{limit}").strip()
                if allowed != "max":
                    yield int(allowed) - int(read_text(f"{directory}/{usage}"))
        directory = directory.parent
