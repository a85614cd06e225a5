"""Stopped tasks of a running program, borrowed for calls of ours: what they get back, and when."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from runtime.engine import signals
from runtime.engine.arch import current as arch
from runtime.engine.live_process import LiveProcess
from runtime.engine.remote import (
    ALL_BUT_TRAP,
    ENTRY_OFFSET,
    SCRATCH_SIZE,
    Batch,
    Tracee,
    map_scratch,
)
from runtime.errors import TaskVanishedError
from runtime.kernel import proc_maps, proc_task, process_vm, ptrace
from runtime.kernel.restart_block import restart_blocks

SA_RESTORER = 0x04000000  # arch/x86/include/uapi/asm/signal.h


@dataclass(slots=True)
class Saved:
    """What a task must get back after batches have run in it.

    Attributes:
        registers: For the task itself.
        elsewhere: For a task that goes on in its place, or that the healer has brought back.
        sleep_end: When a relative sleep is to end: clock and nanoseconds.
        dispatch: Syscall user dispatch, which would catch our calls too.
    """

    registers: arch.Registers
    elsewhere: arch.Registers
    sleep_end: tuple[int, int] | None
    sigmask: int
    pending: tuple[bytes, ...]
    shared_pending: tuple[bytes, ...]
    xstate: bytes
    dispatch: tuple[int, int, int, int]


class Loan:
    """A leader on loan.

    Attributes:
        saved: What it is to get back.
    """

    def __init__(self, leader: Tracee, saved: Saved) -> None:
        self.saved = saved
        self._leader = leader
        self._borrowed = contextlib.ExitStack()
        self._is_borrowed = False

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.give_back()

    def take(self) -> None:
        """Borrow the leader, unless it is."""
        if not self._is_borrowed:
            self._borrowed.enter_context(borrowed(self._leader, self.saved))
            self._is_borrowed = True

    def give_back(self) -> None:
        """Before another task uses the scratch area, which has room for one state only."""
        self._is_borrowed = False
        self._borrowed.close()


@contextlib.contextmanager
def scratch_area(process: LiveProcess, leader: Tracee) -> Iterator[Loan]:
    """Borrow a leader and give it a scratch area, with a handler that brings it back should we die.

    The pending SIGTRAPs of leader and process are held here meanwhile.
    """
    instruction = find_syscall_instruction(process.view, process.mappings)
    saved = look(leader)
    traps = shelved(leader, saved, shared=True)
    with Loan(leader, saved) as loan:
        map_scratch(leader, instruction, _scratch_address(process.mappings))
        process.sigtrap_action = b""
        try:
            leader.keep_state(saved.elsewhere, saved.xstate, saved.sigmask)
            process.sigtrap_action = _handle_traps(leader)
            yield loan
        finally:
            # A process that was killed meanwhile has nothing to be put back.
            with contextlib.suppress(ProcessLookupError, TaskVanishedError):
                loan.take()
                _remove(leader, process.sigtrap_action, traps)


def _handle_traps(leader: Tracee) -> bytes:
    """Make the healer its handler for SIGTRAP; returns the program's own action."""
    batch = Batch()
    before = batch.out(signals.SIGACTION.size)
    handler = signals.SIGACTION.pack(leader.healer, SA_RESTORER, leader.healer, 0)
    batch.call("rt_sigaction", signal.SIGTRAP, handler, before, 8)
    return leader.run(batch).read(before)


def _remove(leader: Tracee, sigtrap_action: bytes, traps: Traps) -> None:
    at = leader.syscall_instruction
    if sigtrap_action:
        room = leader.scratch + ENTRY_OFFSET
        process_vm.write(leader.tid, room, sigtrap_action)
        leader.call_at(at, "rt_sigaction", signal.SIGTRAP, room, 0, 8)
    queue_again(leader, traps)
    # It vanishes under the call, which stops before the next instruction.
    leader.call_at(at, "munmap", leader.scratch, SCRATCH_SIZE)
    leader.scratch = 0


@dataclass(frozen=True, slots=True)
class Traps:
    """The pending SIGTRAPs of a task, which have to be out of the way of batches."""

    own: tuple[bytes, ...] = ()
    shared: tuple[bytes, ...] = ()


def shelved(tracee: Tracee, saved: Saved, *, shared: bool) -> Traps:
    """Take the pending SIGTRAPs of a task, with those of its process if *shared*."""
    own = tuple(filter(_is_trap, saved.pending))
    of_process = tuple(filter(_is_trap, saved.shared_pending)) if shared else ()
    if own or of_process:
        ptrace.set_sigmask(tracee.tid, ALL_BUT_TRAP)
        for _ in own + of_process:
            tracee.shelve_trap()
        ptrace.set_sigmask(tracee.tid, saved.sigmask)
    return Traps(own, of_process)


def _is_trap(info: bytes) -> bool:
    return int.from_bytes(info[:4], "little") == signal.SIGTRAP


def queue_again(tracee: Tracee, traps: Traps) -> None:
    """Put back what `shelved` has taken; a scratch area is there, and no batch comes any more."""
    if traps.own or traps.shared:
        pid, tid = proc_task.status(tracee.pid).ns_pids[-1], _own_tid(tracee)
        for info in traps.own:
            tracee.queue_trap(info, (pid, tid))
        for info in traps.shared:
            tracee.queue_trap(info, (pid,))


def _own_tid(tracee: Tracee) -> int:
    return proc_task.status(tracee.pid, tracee.tid).ns_pids[-1]


@contextlib.contextmanager
def borrowed(tracee: Tracee, saved: Saved) -> Iterator[None]:
    """Use a task for calls of ours; afterwards it has its registers and signal mask again."""
    ptrace.set_sigmask(tracee.tid, ALL_BUT_TRAP)
    if saved.dispatch[0]:
        ptrace.set_user_dispatch(tracee.tid, 0, 0, 0, 0)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            if saved.dispatch[0]:
                ptrace.set_user_dispatch(tracee.tid, *saved.dispatch)
            tracee.set_registers(saved.registers)
            tracee.settle()
            ptrace.set_sigmask(tracee.tid, saved.sigmask)


def look(tracee: Tracee) -> Saved:
    """What a stopped task is to get back."""
    registers = tracee.registers()
    start = registers.rip - arch.CODE_BEFORE_CALL
    try:
        code = process_vm.read(tracee.tid, start, arch.CODE_BEFORE_CALL)
    except OSError:
        code = b""  # nothing readable there
    block = None
    if registers.in_restartable and (blocks := restart_blocks()) is not None:
        block = blocks.read(tracee.tid)
    elsewhere = registers.with_original_call(code, tracee.wait_channel, block)
    return Saved(
        registers=registers,
        elsewhere=elsewhere,
        sleep_end=elsewhere.end_of_sleep(block) if block else None,
        sigmask=ptrace.get_sigmask(tracee.tid),
        pending=tuple(ptrace.peek_siginfo(tracee.tid, shared=False)),
        shared_pending=tuple(ptrace.peek_siginfo(tracee.tid, shared=True)),
        xstate=ptrace.get_regset(tracee.tid, arch.NT_X86_XSTATE, arch.XSTATE_MAX),
        dispatch=ptrace.user_dispatch(tracee.tid),
    )


def find_syscall_instruction(tid: int, mappings: list[proc_maps.Mapping]) -> int:
    """Address of a system-call instruction in a task's memory: in the vDSO, or in any code."""
    code = [m for m in mappings if m.protection & proc_maps.PROT_EXEC]
    for mapping in sorted(code, key=lambda m: m.path != "[vdso]"):
        if mapping.start >= arch.TASK_SIZE or not mapping.protection & proc_maps.PROT_READ:
            continue
        length = min(mapping.end - mapping.start, 4 << 20)
        found = process_vm.read(tid, mapping.start, length).find(arch.SYSCALL_INSTRUCTION)
        if found >= 0:
            return mapping.start + found
    raise LookupError(f"task {tid} has no system-call instruction in readable code")


def _scratch_address(mappings: list[proc_maps.Mapping]) -> int:
    """A free place for the scratch area, away from where the program's next mappings go."""
    return find_hole([(m.start, m.end) for m in mappings], SCRATCH_SIZE)


def find_hole(taken: list[tuple[int, int]], size: int) -> int:
    """The lowest gap of *size* bytes, with a guard of as much on both sides."""
    start = 0x10000000
    for low, high in sorted(taken):
        if start + 3 * size <= low:
            break
        start = max(start, high)
    if start + 3 * size > arch.TASK_SIZE:
        raise LookupError(f"no free {3 * size} bytes of address space")
    return start + size
