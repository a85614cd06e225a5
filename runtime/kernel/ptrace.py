"""ptrace(2): stop tasks, look into them, and steer them.

Only ``PTRACE_SEIZE`` is used: unlike ``PTRACE_ATTACH`` it sends no signal, so a task that is
never more than looked at does not notice.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from dataclasses import dataclass

from runtime.kernel.libc import check, libc

# Requests, include/uapi/linux/ptrace.h
PTRACE_CONT = 7
PTRACE_DETACH = 17
PTRACE_SYSCALL = 24
PTRACE_SETOPTIONS = 0x4200
PTRACE_GETEVENTMSG = 0x4201
PTRACE_GETSIGINFO = 0x4202
PTRACE_GETREGSET = 0x4204
PTRACE_SETREGSET = 0x4205
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_LISTEN = 0x4208
PTRACE_PEEKSIGINFO = 0x4209
PTRACE_GETSIGMASK = 0x420A
PTRACE_SETSIGMASK = 0x420B
PTRACE_SECCOMP_GET_FILTER = 0x420C
PTRACE_SECCOMP_GET_METADATA = 0x420D
PTRACE_GET_RSEQ_CONFIGURATION = 0x420F
PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG = 0x4211
PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG = 0x4210

# Options
PTRACE_O_TRACESYSGOOD = 1 << 0
PTRACE_O_TRACEFORK = 1 << 1
PTRACE_O_TRACEVFORK = 1 << 2
PTRACE_O_TRACECLONE = 1 << 3
PTRACE_O_TRACEEXEC = 1 << 4
PTRACE_O_TRACEEXIT = 1 << 6
PTRACE_O_EXITKILL = 1 << 20
PTRACE_O_SUSPEND_SECCOMP = 1 << 21

# Events, in bits 16 and up of the wait status
PTRACE_EVENT_FORK = 1
PTRACE_EVENT_VFORK = 2
PTRACE_EVENT_CLONE = 3
PTRACE_EVENT_EXEC = 4
PTRACE_EVENT_EXIT = 6
PTRACE_EVENT_STOP = 128

PTRACE_PEEKSIGINFO_SHARED = 1
SECCOMP_FILTER_FLAG_LOG = 1 << 1  # include/uapi/linux/seccomp.h

WALL = 0x40000000  # __WALL, include/uapi/linux/wait.h: children of any kind, traced threads too
SIGINFO_SIZE = 128  # sizeof(siginfo_t)
SIGSET_SIZE = 8  # the kernel's sigset_t on 64-bit machines


class iovec(ctypes.Structure):  # <sys/uio.h>
    _fields_ = (("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t))


class peeksiginfo_args(ctypes.Structure):  # include/uapi/linux/ptrace.h
    _fields_ = (("off", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("nr", ctypes.c_int32))


class rseq_configuration(ctypes.Structure):  # struct ptrace_rseq_configuration
    _fields_ = (
        ("rseq_abi_pointer", ctypes.c_uint64),
        ("rseq_abi_size", ctypes.c_uint32),
        ("signature", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class sud_config(ctypes.Structure):  # struct ptrace_sud_config, include/uapi/linux/ptrace.h
    _fields_ = (
        ("mode", ctypes.c_uint64),
        ("selector", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("len", ctypes.c_uint64),
    )


_ptrace = libc.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def _call(name: str, request: int, tid: int, addr: int = 0, data: int = 0) -> int:
    return check(_ptrace(request, tid, addr, data), f"ptrace({name}, {tid})")


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a traced task stopped.

    Attributes:
        tid: The task.
        signal: Stop signal, or 0 when the task is gone.
        event: ``PTRACE_EVENT_*`` or 0.
        status: The raw wait status.
    """

    tid: int
    signal: int
    event: int
    status: int

    @property
    def gone(self) -> bool:
        """Whether the task has exited or was killed."""
        return self.signal == 0

    @property
    def syscall(self) -> bool:
        """Whether this is the entry or exit of a system call (``PTRACE_O_TRACESYSGOOD``)."""
        return self.signal == signal.SIGTRAP | 0x80


def seize(tid: int, options: int) -> None:
    """Attach to *tid* without stopping it.

    Raises:
        ProcessLookupError: It is gone.
        PermissionError: It is traced by somebody else, or we may not.
    """
    _call("SEIZE", PTRACE_SEIZE, tid, 0, options)


def interrupt(tid: int) -> None:
    """Ask a seized task to stop; wait for the stop with `wait_stop`."""
    _call("INTERRUPT", PTRACE_INTERRUPT, tid)


def resume(tid: int, sig: int = 0) -> None:
    """Let a stopped task run, delivering *sig* if not 0."""
    _call("CONT", PTRACE_CONT, tid, 0, sig)


def resume_to_syscall(tid: int) -> None:
    """Let a stopped task run until the next entry or exit of a system call."""
    _call("SYSCALL", PTRACE_SYSCALL, tid)


def detach(tid: int) -> None:
    """Let a stopped task go for good."""
    _call("DETACH", PTRACE_DETACH, tid)


def set_options(tid: int, options: int) -> None:
    """Replace the options given to `seize`."""
    _call("SETOPTIONS", PTRACE_SETOPTIONS, tid, 0, options)


def event_message(tid: int) -> int:
    """Return the datum of the current event stop: the new task's id for a clone."""
    message = ctypes.c_ulong()
    _call("GETEVENTMSG", PTRACE_GETEVENTMSG, tid, 0, ctypes.addressof(message))
    return message.value


def wait_stop(tid: int, *, block: bool = True) -> Stop | None:
    """Wait until a traced task stops or ends.

    Args:
        tid: A task traced by the calling thread.
        block: With False, return None when nothing has happened yet.
    """
    pid, status = os.waitpid(tid, WALL | (0 if block else os.WNOHANG))
    if pid == 0:
        return None
    if os.WIFSTOPPED(status):
        return Stop(pid, os.WSTOPSIG(status), status >> 16, status)
    return Stop(pid, 0, 0, status)


def get_regset(tid: int, kind: int, size: int) -> bytes:
    """Read one register set; *kind* is an ``NT_*`` note type from <elf.h>."""
    buffer = ctypes.create_string_buffer(size)
    vector = iovec(ctypes.addressof(buffer), size)
    _call("GETREGSET", PTRACE_GETREGSET, tid, kind, ctypes.addressof(vector))
    return ctypes.string_at(buffer, vector.iov_len)


def set_regset(tid: int, kind: int, data: bytes) -> None:
    """Write one register set."""
    buffer = ctypes.create_string_buffer(data, len(data))
    vector = iovec(ctypes.addressof(buffer), len(data))
    _call("SETREGSET", PTRACE_SETREGSET, tid, kind, ctypes.addressof(vector))


def get_sigmask(tid: int) -> int:
    """Return the blocked signals as bits; inside sigsuspend(2) and kin, the mask to go back to."""
    mask = ctypes.c_uint64()
    _call("GETSIGMASK", PTRACE_GETSIGMASK, tid, SIGSET_SIZE, ctypes.addressof(mask))
    return mask.value


def set_sigmask(tid: int, bits: int) -> None:
    """Set the blocked signals; the kernel leaves SIGKILL and SIGSTOP out by itself."""
    mask = ctypes.c_uint64(bits)
    _call("SETSIGMASK", PTRACE_SETSIGMASK, tid, SIGSET_SIZE, ctypes.addressof(mask))


def peek_siginfo(tid: int, *, shared: bool) -> list[bytes]:
    """Return the queued ``siginfo_t`` records, 128 bytes each, without taking them.

    Args:
        tid: A stopped task.
        shared: The queue of the process rather than that of the thread.
    """
    batch = 32
    buffer = ctypes.create_string_buffer(batch * SIGINFO_SIZE)
    found: list[bytes] = []
    while True:
        args = peeksiginfo_args(len(found), PTRACE_PEEKSIGINFO_SHARED if shared else 0, batch)
        got = _call(
            "PEEKSIGINFO",
            PTRACE_PEEKSIGINFO,
            tid,
            ctypes.addressof(args),
            ctypes.addressof(buffer),
        )
        found += [buffer.raw[i * SIGINFO_SIZE : (i + 1) * SIGINFO_SIZE] for i in range(got)]
        if got < batch:
            return found


def rseq(tid: int) -> tuple[int, int, int]:
    """Return a thread's restartable-sequence area as (address, size, signature); 0 for none.

    Source: include/uapi/linux/ptrace.h (Linux 5.13).
    """
    config = rseq_configuration()
    _call(
        "GET_RSEQ_CONFIGURATION",
        PTRACE_GET_RSEQ_CONFIGURATION,
        tid,
        ctypes.sizeof(config),
        ctypes.addressof(config),
    )
    return config.rseq_abi_pointer, config.rseq_abi_size, config.signature


def user_dispatch(tid: int) -> tuple[int, int, int, int]:
    """Return syscall user dispatch as (mode, offset, length, selector); mode 0 is off.

    Source: include/uapi/linux/ptrace.h (Linux 6.4); before, nothing is known: it is off then.
    """
    config = sud_config()
    request, size = PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, ctypes.sizeof(config)
    try:
        _call("GET_SYSCALL_USER_DISPATCH", request, tid, size, ctypes.addressof(config))
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
    return config.mode, config.offset, config.len, config.selector


def set_user_dispatch(tid: int, mode: int, offset: int, length: int, selector: int) -> None:
    """Set syscall user dispatch; all zero switches it off."""
    config = sud_config(mode, selector, offset, length)
    request, size = PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, ctypes.sizeof(config)
    _call("SET_SYSCALL_USER_DISPATCH", request, tid, size, ctypes.addressof(config))


def seccomp_logged(tid: int, index: int) -> bool:
    """Whether a filter (0 is the oldest) was installed with SECCOMP_FILTER_FLAG_LOG.

    Source: struct seccomp_metadata, include/uapi/linux/ptrace.h (Linux 4.16).
    """
    buffer = ctypes.create_string_buffer(struct.pack("<QQ", index, 0), 16)
    request = PTRACE_SECCOMP_GET_METADATA
    _call("SECCOMP_GET_METADATA", request, tid, 16, ctypes.addressof(buffer))
    return bool(struct.unpack("<QQ", buffer.raw)[1] & SECCOMP_FILTER_FLAG_LOG)


def seccomp_filters(tid: int) -> list[bytes]:
    """Return a thread's classic BPF seccomp programs, oldest first, 8 bytes an instruction.

    Raises:
        PermissionError: No CAP_SYS_ADMIN.

    Source: get_nth_filter() in kernel/seccomp.c: whatever man 2 ptrace says, 0 is the oldest.
    """
    programs: list[bytes] = []
    while True:
        try:
            count = _call("SECCOMP_GET_FILTER", PTRACE_SECCOMP_GET_FILTER, tid, len(programs))
        except FileNotFoundError:  # ENOENT ends the list
            return programs
        buffer = ctypes.create_string_buffer(count * 8)
        _call(
            "SECCOMP_GET_FILTER",
            PTRACE_SECCOMP_GET_FILTER,
            tid,
            len(programs),
            ctypes.addressof(buffer),
        )
        programs.append(buffer.raw)
