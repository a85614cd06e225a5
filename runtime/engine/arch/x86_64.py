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

The *stub* is the program that a restored process starts from: ``for (;;) pause();`` as a static
ELF file of one page, so that there is next to nothing to unmap.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from runtime.kernel.numbers import NR

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
COPY_WORD = 2**64 - 1  # the batch's "copy" entry

_STUB_BASE = 0x400000
_STUB_CODE = bytes.fromhex("b8220000000f05ebf7")  # mov eax,34 (pause); syscall; jmp back
STUB_SYSCALL = _STUB_BASE + 120 + 5  # where the stub's syscall instruction stands


def stub_elf() -> bytes:
    """The stub program as a complete ELF file of 129 bytes."""
    size = 120 + len(_STUB_CODE)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", 2, ELF_MACHINE, 1, _STUB_BASE + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _STUB_BASE, _STUB_BASE, size, size, 4096)
    return header + segment + _STUB_CODE


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

    def for_batch(self, code: int, entries: int, count: int) -> Registers:
        """These registers, about to run *count* batch entries."""
        return self._replace(rip=code, rbx=entries, rbp=count, orig_rax=2**64 - 1)

    def for_syscall(self, instruction: int, number: int, args: tuple[int, ...]) -> Registers:
        """These registers, about to execute the one system call at *instruction*."""
        a = [word & (2**64 - 1) for word in args] + [0] * (6 - len(args))
        return self._replace(
            rip=instruction,
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

    def without_restart_block(self) -> Registers:
        """For a new task, which has no kernel memory of the call it was in.

        ``ERESTART_RESTARTBLOCK`` would go on with the old task's remaining time, which only the
        old task has: the call is made anew instead.
        """
        if self.in_syscall is not None and self.result == -ERESTART_RESTARTBLOCK:
            return self.restarted()
        return self

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

EINTR = 4
ERESTART_RESTARTBLOCK = 516  # include/linux/errno.h; never seen by programs

# Calls that return EINTR after a stop without any handler, signal(7), and that have no effect yet
_RETRIED = frozenset(
    NR[name]
    for name in (
        *("epoll_wait", "epoll_pwait", "epoll_pwait2", "semop", "semtimedop", "rt_sigtimedwait"),
        *("recvfrom", "recvmsg", "sendto", "sendmsg", "accept", "accept4", "read", "readv"),
        "io_getevents",
    )
)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
