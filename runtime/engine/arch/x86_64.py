"""x86-64: registers, the system-call batch, the stub program, and how system calls restart.

The *batch* is position-independent code that runs an array of system calls and traps::

    loop:   mov rax,[rbx]           ; entry: nr, a1 … a6, result (eight 64-bit words)
            mov rdi,[rbx+8]
            mov rsi,[rbx+16]
            cmp rax,-1              ; not a call but "copy the word at a1 to a2":
            je  copy                ; how a later call takes an earlier result
            mov rdx,[rbx+24] ; mov r10,[rbx+32] ; mov r8,[rbx+40] ; mov r9,[rbx+48]
            syscall
            mov [rbx+56],rax
    next:   add rbx,64
            dec rbp
            jnz loop
            int3
    copy:   mov rax,[rdi]
            mov [rsi],rax
            jmp next

It uses no stack and clobbers nothing that the engine has not saved.

Should the tracer be killed while a program is in a batch, the kernel lets the program go on right
there. Then the trap's signal is not swallowed by a tracer but finds a handler: the *healer* behind
the batch. It points the stack at a signal frame that holds the program's own state and returns
from it with rt_sigreturn(2), so that the program goes on where it was stopped::

            lea rsp,[frame]
            mov eax,15              ; rt_sigreturn
            syscall

The *stub* is the program that a restored process starts from: ``for (;;) pause();`` as a static
ELF file of one page, so that there is next to nothing to unmap.
"""

from __future__ import annotations

import re
import struct
import time
from typing import NamedTuple

from runtime.kernel.executable import elf_of
from runtime.kernel.numbers import NR
from runtime.kernel.restart_block import RestartBlock

ELF_MACHINE = 62  # EM_X86_64, <elf.h>

# Register sets, <elf.h>
NT_PRSTATUS = 1
NT_X86_XSTATE = 0x202
XSTATE_MAX = 64 << 10  # more than AMX needs (11 KiB)

TASK_SIZE = 0x7FFFFFFFF000  # user addresses end here without 5-level hints
MMAP_MIN = 0x10000
VSYSCALL = 0xFFFFFFFFFF600000  # the fixed kernel page above TASK_SIZE

SYSCALL_INSTRUCTION = b"\x0f\x05"

BATCH_CODE = bytes.fromhex(
    "488b03488b7b08488b73104883f8ff7420488b53184c8b53204c8b43284c8b4b30"
    "0f05488943384883c34048ffcd75d0cc488b07488906ebee"
)
HEALER_OFFSET = 64  # behind the batch; a multiple of 16


def healer_code(frame: int) -> bytes:
    """The healer for a signal frame *frame* bytes behind the start of the batch code."""
    return (
        b"\x48\x8d\x25"
        + struct.pack("<i", frame - HEALER_OFFSET - 7)
        + bytes.fromhex("b80f0000000f05")
    )


COPY_WORD = 2**64 - 1  # the batch's "copy" entry

_STUB_BASE = 0x400000
_STUB_CODE = bytes.fromhex("b8220000000f05ebf7")  # mov eax,34 (pause); syscall; jmp back
STUB_SYSCALL = _STUB_BASE + 120 + 5  # where the stub's syscall instruction stands


def stub_elf() -> bytes:
    """The stub program as a complete ELF file of 129 bytes."""
    return elf_of(_STUB_CODE, ELF_MACHINE, _STUB_BASE)


class Registers(NamedTuple):
    """``struct user_regs_struct``, <sys/user.h>; 27 unsigned 64-bit words."""

    r15: int
    r14: int
    r13: int
    r12: int
    rbp: int
    rbx: int
    r11: int
    r10: int
    r9: int
    r8: int
    rax: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    orig_rax: int
    rip: int
    cs: int
    eflags: int
    rsp: int
    ss: int
    fs_base: int
    gs_base: int
    ds: int
    es: int
    fs: int
    gs: int

    def pack(self) -> bytes:
        """The bytes that PTRACE_SETREGSET takes."""
        return _REGISTERS.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Registers:
        """From the bytes of PTRACE_GETREGSET; ValueError for a 32-bit task's smaller set."""
        if len(data) != _REGISTERS.size:
            raise ValueError(f"{len(data)} bytes of registers, a 64-bit task has {_REGISTERS.size}")
        return cls(*_REGISTERS.unpack(data))

    @property
    def is_64bit(self) -> bool:
        """Whether the task runs 64-bit code (__USER_CS, arch/x86/include/asm/segment.h)."""
        return self.cs == 0x33

    @property
    def in_syscall(self) -> int | None:
        """Number of the system call that the task was stopped in, or None."""
        number = _signed(self.orig_rax)
        return number if number >= 0 else None

    @property
    def result(self) -> int:
        """What the system call returns, negative for errors."""
        return _signed(self.rax)

    def for_batch(self, code: int, entries: int, count: int, stack: int) -> Registers:
        """These registers, about to run *count* batch entries; the healer needs a stack."""
        return self._replace(
            rip=code,
            rbx=entries,
            rbp=count,
            rsp=stack,
            eflags=self.eflags & ~_TRAP_FLAG,
            orig_rax=2**64 - 1,
        )

    def for_syscall(self, instruction: int, number: int, args: tuple[int, ...]) -> Registers:
        """These registers, about to execute the one system call at *instruction*."""
        a = [word & (2**64 - 1) for word in args] + [0] * (6 - len(args))
        return self._replace(
            rip=instruction,
            eflags=self.eflags & ~_TRAP_FLAG,
            rax=number,
            orig_rax=2**64 - 1,
            rdi=a[0],
            rsi=a[1],
            rdx=a[2],
            r10=a[3],
            r8=a[4],
            r9=a[5],
        )

    def uninterrupted(self) -> Registers:
        """What to go on with when no signal, only our freeze, has interrupted the call.

        Most calls are made again by the kernel itself on the way out (``ERESTART*``). A few give
        EINTR after every stop, signal(7); those that have done nothing yet are made again.
        """
        if self.in_syscall in _RETRIED and self.result == -EINTR:
            return self.restarted()
        return self

    @property
    def connecting(self) -> int | None:
        """The descriptor of a connect(2), if that is what was interrupted."""
        if self.in_syscall != NR["connect"] or -self.result not in _RESTARTS:
            return None
        return self.rdi & _U32

    @property
    def in_restartable(self) -> bool:
        """Whether a call was interrupted that goes on with what is left of its time."""
        return self.in_syscall is not None and self.result == -ERESTART_RESTARTBLOCK

    def with_original_call(
        self, code: bytes, wait_channel: str, block: RestartBlock | None
    ) -> Registers:
        """These registers with the number of the call that restart_syscall(2) stands for.

        A call that was interrupted before goes on as restart_syscall, which only the task that
        made the call can continue. The code that made it has usually loaded its number just
        before; behind a general function such as syscall(3), where the task waited tells.

        Args:
            code: The bytes before the instruction pointer.
            wait_channel: /proc/PID/wchan before the freeze.
            block: What the kernel keeps of the call, where that can be read.
        """
        if self.in_syscall != _RESTART_SYSCALL or not self.in_restartable:
            return self
        if block is not None:
            return self._replace(orig_rax=NR[self._name_from(block)])
        loads = list(_LOAD_NUMBER.finditer(code))
        if loads:
            return self._replace(orig_rax=int.from_bytes(loads[-1][1], "little"))
        if "futex" in wait_channel:
            return self._replace(orig_rax=NR["futex"])
        if "poll" in wait_channel:
            return self._replace(orig_rax=NR["poll"])
        if "nanosleep" in wait_channel:
            return self._replace(orig_rax=NR[self._nanosleep])
        return self

    @property
    def _nanosleep(self) -> str:
        # The first argument of clock_nanosleep is a small number, of nanosleep an address.
        return "clock_nanosleep" if self.rdi < MMAP_MIN else "nanosleep"

    def _name_from(self, block: RestartBlock) -> str:
        """Which call it is that the kernel remembers; there are no others."""
        if self._fits_futex(block):
            return "futex"
        return "poll" if self._fits_poll(block) else self._nanosleep

    def _fits_futex(self, block: RestartBlock) -> bool:
        address, value, _ = block.futex
        return address == self.rdi >= MMAP_MIN and value == self.rdx & _U32

    def _fits_poll(self, block: RestartBlock) -> bool:
        address, count, end = block.poll
        if (address, count) != (self.rdi, self.rsi & _U32):
            return False
        # poll(NULL, 0, time-out) looks like clock_nanosleep but for the word that says "limited".
        return self.rdi >= MMAP_MIN or end is not None

    def end_of_sleep(self, block: RestartBlock) -> tuple[int, int] | None:
        """When the interrupted call is to end: clock and nanoseconds; None for no relative end.

        Args:
            block: What the kernel keeps of it.
        """
        name = _NAMES.get(self.in_syscall or 0)
        if name == "poll" and self._fits_poll(block):
            end = block.poll[2]
            return None if end is None else (time.CLOCK_MONOTONIC, end)
        if name == "futex" and self._fits_futex(block) and self.rsi & _FUTEX_COMMAND == FUTEX_WAIT:
            return (time.CLOCK_MONOTONIC, block.futex[2]) if self.r10 else None
        if name in ("nanosleep", "clock_nanosleep"):
            clock, end = block.nanosleep
            if name == "clock_nanosleep" and self.rdi in _ALARM_CLOCKS:
                clock = _ALARM_CLOCKS[self.rdi]
            return (clock, end) if clock in _SLEEP_CLOCKS else None
        return None

    def rest_of_sleep(self, left_ns: int, room: int) -> tuple[str, tuple[int, ...], bytes]:
        """The call that is left of the interrupted one: its name, its arguments, its time-out.

        Args:
            left_ns: Time left, at least 0.
            room: Where the time-out, a ``struct timespec``, will be in the task.

        Raises:
            KeyError: The call is none that `end_of_sleep` knows.
        """
        span = struct.pack("<qq", *divmod(left_ns, 10**9))
        name = _NAMES[self.in_syscall or 0]
        if name == "nanosleep":
            return name, (room, self.rsi), span
        if name == "clock_nanosleep":
            return name, (self.rdi, self.rsi, room, self.r10), span
        if name == "futex":
            return name, (self.rdi, self.rsi, self.rdx, room, self.r8, self.r9), span
        milliseconds = min(-(-left_ns // 10**6), 2**31 - 1)
        return name, (self.rdi, self.rsi, milliseconds), span

    def without_restart_block(self) -> Registers:
        """For a task without the kernel's memory of the call it was in.

        ``ERESTART_RESTARTBLOCK`` would go on with the old task's remaining time, which only the
        old task has: the call is made anew instead, or, if it is not known, gives EINTR.
        """
        if not self.in_restartable:
            return self
        if self.in_syscall == _RESTART_SYSCALL:
            return self.with_result(-EINTR)
        return self.restarted()

    def for_user_space(self) -> Registers:
        """For a return that the kernel's restart of interrupted calls has no part in."""
        registers = self.without_restart_block()
        if registers.in_syscall is not None and -registers.result in _RESTARTS:
            return registers.restarted()
        return registers

    def restarted(self) -> Registers:
        """These registers with the interrupted system call about to be made again."""
        return self._replace(rax=self.orig_rax, rip=self.rip - 2, orig_rax=2**64 - 1)

    def with_result(self, result: int) -> Registers:
        """These registers with the system call returning *result*, no longer restartable."""
        return self._replace(rax=result & (2**64 - 1), orig_rax=2**64 - 1)

    def jump(self, address: int) -> Registers:
        """These registers, going on at *address* outside of any system call."""
        return self._replace(rip=address, orig_rax=2**64 - 1)


_REGISTERS = struct.Struct("<27Q")
_TRAP_FLAG = 1 << 8  # of a program that steps through itself: not through our code

EINTR = 4
ERESTART_RESTARTBLOCK = 516  # include/linux/errno.h; never seen by programs
_RESTARTS = frozenset({512, 513, 514})  # ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND

_U32 = 2**32 - 1
FUTEX_WAIT = 0  # include/uapi/linux/futex.h
_FUTEX_COMMAND = 0x7F  # without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME
_NAMES = {NR[name]: name for name in ("nanosleep", "clock_nanosleep", "poll", "futex")}
# CLOCK_REALTIME_ALARM and CLOCK_BOOTTIME_ALARM, which the kernel remembers by another number
_ALARM_CLOCKS = {8: time.CLOCK_REALTIME, 9: time.CLOCK_BOOTTIME}
_SLEEP_CLOCKS = (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, time.CLOCK_TAI)

# The calls that go on as restart_syscall(2), and how code loads their numbers: mov eax,imm32
_RESTART_SYSCALL = NR["restart_syscall"]
CODE_BEFORE_CALL = 64  # bytes before the instruction pointer worth looking at
_LOAD_NUMBER = re.compile(
    rb"\xb8((?:%b)\x00\x00)"
    % b"|".join(
        re.escape(NR[name].to_bytes(2, "little"))
        for name in ("nanosleep", "clock_nanosleep", "poll", "futex")
    ),
    re.DOTALL,
)

# Calls that return EINTR after a stop without any handler, signal(7), and that have no effect yet
_RETRIED = frozenset(
    NR[name]
    for name in (
        *("epoll_wait", "epoll_pwait", "epoll_pwait2", "semop", "semtimedop", "rt_sigtimedwait"),
        *("recvfrom", "recvmsg", "recvmmsg", "read", "readv", "accept", "accept4", "connect"),
        *("sendto", "sendmsg", "sendmmsg", "write", "writev", "io_getevents", "io_pgetevents"),
    )
)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


# struct ucontext up to its signal mask, arch/x86/include/uapi/asm/{ucontext,sigcontext}.h
_UCONTEXT = struct.Struct("<QQQiiQ18Q4H4QQ64xQ")
_UC_FLAGS = 7  # UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
_KEEP_ALTSTACK = 7  # no valid mode: rt_sigreturn then leaves the alternate stack as it is
_FP_AT = 320  # the floating-point state behind it, 64-byte aligned
_FP_SOFTWARE = 464  # struct _fpx_sw_bytes within the legacy area
_FP_MAGIC1, _FP_MAGIC2 = 0x46505853, 0x46505845


def signal_frame(registers: Registers, xstate: bytes, mask: int, address: int) -> bytes:
    """A signal frame from which rt_sigreturn(2) goes on with a task's state.

    Args:
        registers: Where to go on.
        xstate: As PTRACE_GETREGSET gives it.
        mask: Blocked signals.
        address: Where the frame will be, 64-byte aligned; the stack pointer at the return.
    """
    r = registers.for_user_space()
    context = _UCONTEXT.pack(
        *(_UC_FLAGS, 0, 0, _KEEP_ALTSTACK, 0, 0),
        *(r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15),
        *(r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax, r.rcx, r.rsp, r.rip, r.eflags),
        *(r.cs & 0xFFFF, 0, 0, r.ss & 0xFFFF),
        *(0, 0, 0, 0),
        address + _FP_AT,
        mask,
    )
    # ptrace leaves the mask of enabled features where the software bytes start.
    (features,) = struct.unpack_from("<Q", xstate, _FP_SOFTWARE)
    size = len(xstate)
    software = struct.pack("<IIQI", _FP_MAGIC1, size + 4, features, size)
    state = bytearray(xstate)
    state[_FP_SOFTWARE : _FP_SOFTWARE + len(software)] = software
    return context.ljust(_FP_AT, b"\0") + bytes(state) + struct.pack("<I", _FP_MAGIC2)
