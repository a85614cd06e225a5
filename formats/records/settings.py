"""What tasks have asked the kernel for, beside what everybody has: prctl(2) and its relatives.

Each field's default is what a task has that has never asked.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UserDispatch:
    """Syscall user dispatch, prctl(PR_SET_SYSCALL_USER_DISPATCH).

    Attributes:
        mode: ``PR_SYS_DISPATCH_*``.
        offset: Start of the addresses whose calls are let through (or caught).
        length: How many.
        selector: Address of the byte that switches it, or 0.
    """

    mode: int
    offset: int
    length: int
    selector: int


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Of one thread.

    Attributes:
        tsc: prctl(PR_GET_TSC): 1, or 2 where reading the counter is an error.
        cpuid: Whether the CPUID instruction works, arch_prctl(ARCH_GET_CPUID).
        mce_kill: prctl(PR_MCE_KILL_GET).
        speculation: prctl(PR_GET_SPECULATION_CTRL) of store bypass, indirect branch, L1D flush.
        io_flusher: prctl(PR_GET_IO_FLUSHER).
        dispatch: Syscall user dispatch; None when it is off.
        segments: GDT entries of set_thread_area(2), as ``struct user_desc``.
        core_group: Tasks with the same number may share a CPU core, PR_SCHED_CORE; 0 for all.
    """

    tsc: int = 1
    cpuid: bool = True
    mce_kill: int = 2
    speculation: tuple[int, ...] = ()
    io_flusher: bool = False
    dispatch: UserDispatch | None = None
    segments: tuple[bytes, ...] = ()
    core_group: int = 0


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """Of one process, mostly of its memory.

    Attributes:
        write_execute: prctl(PR_GET_MDWE).
        merge: prctl(PR_GET_MEMORY_MERGE).
        barriers: Bits of membarrier(2) commands that it has registered for.
        core_dump: /proc/PID/coredump_filter.
        extended_state: arch_prctl(ARCH_GET_XCOMP_PERM).
        descriptors: Its local descriptor table, modify_ldt(2), 8 bytes an entry.
        timer_ids: prctl(PR_TIMER_CREATE_RESTORE_IDS).
        login_uid: /proc/PID/loginuid; 2**32 - 1 for none.
        group_nice: /proc/PID/autogroup; None where there is none.
    """

    write_execute: int = 0
    merge: bool = False
    barriers: int = 0
    core_dump: int | None = None
    extended_state: int = 0
    descriptors: bytes = b""
    timer_ids: bool = False
    login_uid: int = 2**32 - 1
    group_nice: int | None = None
