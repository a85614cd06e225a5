"""System calls inside a stopped task.

Only a task itself can say what its signal handlers are, or map memory into itself. So the engine
makes it do so: a *batch* writes an array of system calls into a scratch area of the task and runs
all of them between two stops (see `runtime.engine.arch` for the few bytes of code).

Rules that keep the task whole:

* Its registers and signal mask are put back before it goes on. While a batch runs, every signal
  but SIGTRAP is blocked, so no handler can run in between.
* A batch ends in a trap. `Tracee.keep_state` makes a handler for it that brings the program back to
  where it was, for the case that we are killed and nobody is there to take the trap. Whoever
  calls it puts the program's own action for SIGTRAP back.
* The last thing before a task goes on is always a stop *inside* the kernel's signal delivery,
  because only from there an interrupted system call is restarted.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.engine.arch import current as arch
from runtime.errors import TaskVanishedError
from runtime.kernel import process_vm, ptrace
from runtime.kernel.numbers import NR

log = logging.getLogger(__name__)

ALL_BUT_TRAP = (2**64 - 1) & ~(1 << (signal.SIGTRAP - 1))

_BIRTHS = (ptrace.PTRACE_EVENT_FORK, ptrace.PTRACE_EVENT_VFORK, ptrace.PTRACE_EVENT_CLONE)
_ENTRY = struct.Struct("<8Q")
_MASK = 2**64 - 1
_MAX_ERRNO = 4095

# Layout of the scratch area
CODE_SIZE = 4096
SCRATCH_SIZE = 1 << 20
ENTRY_OFFSET = CODE_SIZE
MAX_ENTRIES = 4096
DATA_OFFSET = ENTRY_OFFSET + MAX_ENTRIES * _ENTRY.size
FRAME_SIZE = 80 << 10  # for a task's own state, see `Tracee.keep_state`; arch.XSTATE_MAX and more
FRAME_OFFSET = SCRATCH_SIZE - FRAME_SIZE
DATA_SIZE = FRAME_OFFSET - DATA_OFFSET - 4096  # below the frame there is a page of stack

PROT_RWX, PROT_RX, PROT_RW = 7, 5, 3
MAP_PRIVATE_ANONYMOUS = 0x22
MAP_FIXED_NOREPLACE = 0x100000


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an earlier call of the same batch, as an argument of a later one."""

    index: int


@dataclass(frozen=True, slots=True)
class Out:
    """Room in the scratch area that calls write to."""

    offset: int
    size: int


Argument = int | bytes | Result | Out


class CallFailedError(OSError):
    """A system call made in a task failed; ``errno`` is the task's."""


class Batch:
    """An array of system calls under construction.

    Bytes given as an argument travel along and are passed by address; `Out` reserves room for a
    result that is read back afterwards.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[int, ...]] = []
        self._fixups: list[tuple[int, int, Argument]] = []  # (entry, word, what)
        self._names: dict[int, str] = {}
        self._may_fail: set[int] = set()
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._entries)

    def copy(self) -> Batch:
        """A batch with the same calls, to which others are added."""
        other = Batch()
        other._entries = self._entries.copy()
        other._fixups = self._fixups.copy()
        other._names = self._names.copy()
        other._may_fail = self._may_fail.copy()
        other._data = self._data.copy()
        return other

    @property
    def full(self) -> bool:
        """Whether another few calls might not fit; run it and start anew."""
        return len(self._entries) > MAX_ENTRIES - 64 or len(self._data) > DATA_SIZE // 2

    def out(self, size: int) -> Out:
        """Reserve *size* bytes that a call writes to."""
        self._align()
        room = Out(len(self._data), size)
        self._data += bytes(size)
        return room

    def data(self, content: bytes) -> Out:
        """Bytes that calls read and may change."""
        self._align()
        room = Out(len(self._data), len(content))
        self._data += content
        return room

    def call(self, name: str, *args: Argument, may_fail: bool = False) -> Result:
        """Add the system call *name* (as in `runtime.kernel.numbers`, lower case).

        Args:
            name: For instance ``"mmap"``.
            *args: Numbers, bytes, room from `out`, or results of earlier calls.
            may_fail: Leave an error to the caller instead of raising it.
        """
        words = [0] * 6
        for position, arg in enumerate(args):
            if isinstance(arg, Result):
                self._fixups.append((len(self._entries), 0, arg))
                self._names[len(self._entries)] = "copy"
                # The copy entry's target is the word of the call that follows all copies.
                self._entries.append((arch.COPY_WORD, arg.index, position, 0, 0, 0, 0, 0))
        index = len(self._entries)
        for position, arg in enumerate(args):
            if isinstance(arg, int):
                words[position] = arg & _MASK
            elif not isinstance(arg, Result):
                self._fixups.append((index, position + 1, arg))
        self._names[index] = name
        if may_fail:
            self._may_fail.add(index)
        number = NR[name]
        self._entries.append((number, *words, 0))
        return Result(index)

    def _align(self) -> None:
        self._data += bytes(-len(self._data) % 16)

    def pack(self, base: int) -> tuple[bytes, bytes]:
        """Entries, which stand at `ENTRY_OFFSET` of a scratch area at *base*, and their data."""
        entries = [list(entry) for entry in self._entries]
        for index, word, what in self._fixups:
            if isinstance(what, bytes):
                entries[index][word] = base + DATA_OFFSET + self.data(what).offset
            elif isinstance(what, Out):
                entries[index][word] = base + DATA_OFFSET + what.offset
        self._resolve_copies(entries, base)
        if len(entries) > MAX_ENTRIES or len(self._data) > DATA_SIZE:
            raise ValueError(f"batch of {len(entries)} calls and {len(self._data)} bytes")
        return b"".join(_ENTRY.pack(*entry) for entry in entries), bytes(self._data)

    @staticmethod
    def _resolve_copies(entries: list[list[int]], base: int) -> None:
        target = len(entries)
        for index in range(len(entries) - 1, -1, -1):
            entry = entries[index]
            if entry[0] != arch.COPY_WORD:
                target = index
                continue
            source, position = entry[1], entry[2]
            entry[1] = base + ENTRY_OFFSET + source * _ENTRY.size + 56
            entry[2] = base + ENTRY_OFFSET + target * _ENTRY.size + 8 * (position + 1)

    def describe(self, index: int) -> str:
        """The call as a person would write it."""
        words = self._entries[index][1:7]
        return f"{self._names[index]}({', '.join(f'{word:#x}' for word in words)})"

    def failures(self, results: Sequence[int]) -> list[tuple[int, int]]:
        """(call, errno) of the calls that failed and should not have."""
        return [
            (index, -result)
            for index, result in enumerate(results)
            if -_MAX_ERRNO <= result < 0
            and index not in self._may_fail
            and self._entries[index][0] != arch.COPY_WORD
        ]


class Answers:
    """What a batch brought back."""

    def __init__(self, results: tuple[int, ...], data: bytes) -> None:
        self._results = results
        self._data = data

    def __getitem__(self, call: Result) -> int:
        return self._results[call.index]

    def read(self, room: Out) -> bytes:
        """The bytes that calls left in *room*."""
        return self._data[room.offset : room.offset + room.size]


class Tracee:
    """One task that this thread traces and has stopped.

    Attributes:
        tid: In our own pid namespace.
        pid: Its process, in our own pid namespace.
        scratch: Address of the scratch area in its address space, or 0.
        wait_channel: Where in the kernel it waited before it was frozen, as far as known.
        born: Tasks it has made in batches while forks were traced, stopped, as our pid namespace
            sees them.
        on_birth: Called with each before the task goes on.
    """

    def __init__(self, tid: int, pid: int, *, scratch: int = 0) -> None:
        self.tid = tid
        self.pid = pid
        self.scratch = scratch
        self.wait_channel = ""
        self.born: list[int] = []
        self.on_birth: Callable[[int], None] = lambda tid: None

    # Registers

    def registers(self) -> arch.Registers:
        """Current general registers."""
        return arch.Registers.unpack(ptrace.get_regset(self.tid, arch.NT_PRSTATUS, 512))

    def set_registers(self, registers: arch.Registers) -> None:
        """Replace the general registers."""
        ptrace.set_regset(self.tid, arch.NT_PRSTATUS, registers.pack())

    # Stops

    def wait(self) -> ptrace.Stop:
        """Wait for the next stop.

        Raises:
            TaskVanishedError: The task was killed meanwhile.
        """
        stop = ptrace.wait_stop(self.tid)
        assert stop is not None
        if stop.gone:
            raise TaskVanishedError(f"task {self.tid} ended while wherry worked on it")
        return stop

    def settle(self) -> None:
        """From a system-call stop, go to one where calls are restarted and signals taken."""
        ptrace.interrupt(self.tid)
        ptrace.resume(self.tid)
        while True:
            stop = self.wait()
            if stop.event == ptrace.PTRACE_EVENT_STOP:
                return
            ptrace.resume(self.tid)

    def shelve_trap(self) -> None:
        """Take a pending SIGTRAP, which could not be told from the end of a batch.

        The task is stopped as after `settle`, and blocks no SIGTRAP.
        """
        ptrace.resume(self.tid)
        while self.wait().signal != signal.SIGTRAP:
            ptrace.resume(self.tid)
        self.settle()

    def queue_trap(self, info: bytes, own: tuple[int, ...]) -> None:
        """Queue a SIGTRAP that was taken, as the last call that the task makes for us.

        Everything is blocked afterwards; registers and stop are as after `call_at` and `settle`.

        Args:
            info: ``siginfo_t``.
            own: Process and thread as they call themselves, for the queue of the thread, or the
                process alone, for its own.
        """
        room = self.scratch + DATA_OFFSET
        process_vm.write(self.tid, room, info)
        ptrace.set_sigmask(self.tid, _MASK)
        name = "rt_sigqueueinfo" if len(own) == 1 else "rt_tgsigqueueinfo"
        self.call_at(self.syscall_instruction, name, *own, signal.SIGTRAP, room)
        self.settle()

    # System calls

    def call_at(self, instruction: int, name: str, *args: int) -> int:
        """Make one system call with the instruction at *instruction*, without any scratch area.

        The registers are the caller's to put back; afterwards the task is in a system-call stop,
        see `settle`.

        Raises:
            CallFailedError: The call failed.
        """
        number = NR[name]
        self.set_registers(self.registers().for_syscall(instruction, number, args))
        for _ in range(2):  # entry and exit
            ptrace.resume_to_syscall(self.tid)
            stop = self.wait()
            while not stop.syscall:  # an event on the way; signals are blocked
                ptrace.resume_to_syscall(self.tid)
                stop = self.wait()
        result = self.registers().result
        if -_MAX_ERRNO <= result < 0:
            shown = ", ".join(f"{arg:#x}" for arg in args)
            raise CallFailedError(-result, f"{name}({shown}) in task {self.tid}: {_text(-result)}")
        return result

    def run(self, batch: Batch, *, base: arch.Registers | None = None) -> Answers:
        """Run a batch to its trap; the registers are the caller's to put back.

        Args:
            batch: At least one call.
            base: Registers for what the batch does not set; default the current ones.

        Raises:
            CallFailedError: A call failed that was not added with ``may_fail``.
        """
        runs = self._start(batch, base)
        self._run_to_trap()
        back = bytearray(sum(length for _, length in runs))
        process_vm.read_runs(self.tid, runs, memoryview(back))
        count = len(batch)
        results = struct.unpack_from(f"<{8 * count}q", back)[7::8]
        failures = batch.failures(results)
        if failures:
            index, error = failures[0]
            raise CallFailedError(
                error, f"{batch.describe(index)} in task {self.tid}: {_text(error)}"
            )
        return Answers(results, bytes(back[_ENTRY.size * count :]))

    def _start(self, batch: Batch, base: arch.Registers | None) -> list[tuple[int, int]]:
        """Let the task begin a batch; returns where it is: (address, bytes) of calls and data."""
        entries, data = batch.pack(self.scratch)
        runs = [(self.scratch + ENTRY_OFFSET, len(entries))]
        if data:
            runs.append((self.scratch + DATA_OFFSET, len(data)))
        process_vm.write_runs(self.tid, runs, memoryview(bytearray(entries + data)))
        base = base or self.registers()
        self.set_registers(
            base.for_batch(
                self.scratch,
                self.scratch + ENTRY_OFFSET,
                len(batch),
                self.scratch + FRAME_OFFSET,
            )
        )
        ptrace.resume(self.tid)
        return runs

    def _run_to_trap(self) -> None:
        while True:
            stop = self.wait()
            if stop.signal == signal.SIGTRAP and not stop.event:
                return
            self.on_event(stop)
            ptrace.resume(self.tid)

    def on_event(self, stop: ptrace.Stop) -> None:
        """Called for stops that are not the batch's trap: it takes note of new tasks."""
        if stop.event in _BIRTHS:
            child = ptrace.event_message(self.tid)
            first = ptrace.wait_stop(child)
            assert first is not None
            self.born.append(child)
            self.on_birth(child)
        else:
            log.debug("task %d: stop %#x during a batch", self.tid, stop.status)

    @property
    def syscall_instruction(self) -> int:
        """Address of the system-call instruction within the batch code."""
        return self.scratch + arch.BATCH_CODE.index(arch.SYSCALL_INSTRUCTION)

    def skip(self, call: Result) -> None:
        """Have the batch that is under way do nothing in place of a call that is still to come."""
        at = self.scratch + ENTRY_OFFSET + call.index * _ENTRY.size
        process_vm.write(self.tid, at, struct.pack("<Q", NR["getpid"]))

    def write_code(self) -> None:
        """Put the batch code at the start of the scratch area, and the healer behind it."""
        code = arch.BATCH_CODE.ljust(arch.HEALER_OFFSET, b"\0") + arch.healer_code(FRAME_OFFSET)
        fd = os.open(f"/proc/{self.tid}/mem", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, code, self.scratch)
        finally:
            os.close(fd)

    def keep_state(self, registers: arch.Registers, xstate: bytes, mask: int) -> None:
        """Leave the task's own state in the scratch area, for the healer to go on with."""
        address = self.scratch + FRAME_OFFSET
        process_vm.write(self.tid, address, arch.signal_frame(registers, xstate, mask, address))

    @property
    def healer(self) -> int:
        """Address of the healer."""
        return self.scratch + arch.HEALER_OFFSET


def map_scratch(tracee: Tracee, instruction: int, address: int) -> None:
    """Map the scratch area at *address* with one bare system call, and put the code there."""

    def map_at(start: int, size: int, protection: int) -> int:
        flags = MAP_PRIVATE_ANONYMOUS | MAP_FIXED_NOREPLACE
        return tracee.call_at(instruction, "mmap", start, size, protection, flags, _MASK, 0)

    try:
        tracee.scratch = map_at(address, SCRATCH_SIZE, PROT_RWX)
    except CallFailedError as exc:
        if exc.errno != errno.EACCES:
            raise
        # PR_SET_MDWE: what can be written cannot be executed, except by a tracer.
        tracee.scratch = map_at(address, CODE_SIZE, PROT_RX)
        map_at(address + CODE_SIZE, SCRATCH_SIZE - CODE_SIZE, PROT_RW)
    tracee.write_code()


def _text(error: int) -> str:
    return os.strerror(error)
