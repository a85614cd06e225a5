"""prctl(2): attributes of the calling process."""

from __future__ import annotations

import ctypes

from runtime.kernel.libc import check, libc

# include/uapi/linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
PR_SET_TIMERSLACK = 29
PR_GET_TIMERSLACK = 30
PR_SET_MM = 35
PR_SET_MM_MAP = 14
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
PR_SET_NO_NEW_PRIVS = 38
PR_GET_TID_ADDRESS = 40
PR_SET_THP_DISABLE = 41
PR_GET_THP_DISABLE = 42
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_SET_VMA = 0x53564D41
PR_SET_VMA_ANON_NAME = 0
PR_TIMER_CREATE_RESTORE_IDS = 77
PR_TIMER_CREATE_RESTORE_IDS_GET = 2
PR_GET_TSC, PR_SET_TSC = 25, 26
PR_MCE_KILL, PR_MCE_KILL_GET = 33, 34
PR_MCE_KILL_SET = 1
PR_GET_SPECULATION_CTRL, PR_SET_SPECULATION_CTRL = 52, 53
PR_SET_IO_FLUSHER, PR_GET_IO_FLUSHER = 57, 58
PR_SCHED_CORE = 62
PR_SCHED_CORE_GET, PR_SCHED_CORE_CREATE = 0, 1
PR_SCHED_CORE_SHARE_TO, PR_SCHED_CORE_SHARE_FROM = 2, 3
PR_SET_MDWE, PR_GET_MDWE = 65, 66
PR_SET_MEMORY_MERGE, PR_GET_MEMORY_MERGE = 67, 68

_prctl = libc.prctl
_prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """Call prctl with integer or address arguments and return its result.

    Raises:
        OSError: The kernel refused or does not know *option*.

    Source: man 2 prctl.
    """
    call = f"prctl({option}, {arg2}, {arg3})"
    return check(_prctl(option, arg2, arg3, arg4, arg5), call)


def set_dumpable(dumpable: bool) -> None:
    """Allow or forbid others of our user to ptrace us and to look into our /proc directory.

    ``execve`` resets it to allowed (for a program that is readable and gains nothing).
    """
    prctl(PR_SET_DUMPABLE, int(dumpable))


def set_keep_caps(keep: bool) -> None:
    """Keep permitted capabilities over the change from uid 0 to another uid."""
    prctl(PR_SET_KEEPCAPS, int(keep))


def set_no_new_privs() -> None:
    """Let no execve give us or our children more privileges; this cannot be undone."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_child_subreaper(enabled: bool) -> None:
    """Become (or stop being) the one that inherits orphaned descendants."""
    prctl(PR_SET_CHILD_SUBREAPER, int(enabled))


def set_parent_death_signal(signum: int) -> None:
    """Be sent *signum* when the thread that made us ends; 0 clears it."""
    prctl(PR_SET_PDEATHSIG, signum)


def in_bounding_set(capability: int) -> bool:
    """Whether a capability is in our bounding set.

    Raises:
        OSError: EINVAL when the kernel does not know the capability.
    """
    return prctl(PR_CAPBSET_READ, capability) == 1


def drop_from_bounding_set(capability: int) -> None:
    """Give up a capability for us and all descendants. Needs CAP_SETPCAP."""
    prctl(PR_CAPBSET_DROP, capability)


def clear_ambient() -> None:
    """Empty the ambient capability set."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def raise_ambient(capability: int) -> None:
    """Add a capability that is both permitted and inheritable to the ambient set."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def set_name(name: str) -> None:
    """Set our comm, cut by the kernel at 15 bytes."""
    raw = ctypes.create_string_buffer(name.encode()[:15] + b"\0")
    prctl(PR_SET_NAME, ctypes.addressof(raw))
