"""clone3(2): make a process with chosen namespaces, chosen ids and a pidfd, and stay a sane Python.

``os.fork`` cannot pass flags, so the system call is made directly, with what ``os.fork`` and
glibc's ``fork`` do around it:

* ``PyOS_BeforeFork`` / ``PyOS_AfterFork_Parent`` / ``PyOS_AfterFork_Child`` take and give back the
  import lock, run ``os.register_at_fork`` hooks and rebuild the interpreter's idea of its threads;
* the call goes through ``PyDLL``, so that the GIL is held across it and the child owns it;
* glibc caches the thread id in the thread descriptor (``raise``, ``abort`` and error-checking
  mutexes read it). ``PR_GET_TID_ADDRESS`` tells where, and ``CLONE_CHILD_SETTID`` lets the kernel
  correct it.

The caller must be single-threaded: another thread's locks would stay locked in the child for ever.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence

from runtime.kernel.libc import libc
from runtime.kernel.numbers import NR

# include/uapi/linux/sched.h
CLONE_NEWTIME = 0x00000080
CLONE_VM = 0x00000100
CLONE_FS = 0x00000200
CLONE_FILES = 0x00000400
CLONE_SIGHAND = 0x00000800
CLONE_SYSVSEM = 0x00040000
CLONE_IO = 0x80000000
CLONE_PIDFD = 0x00001000
CLONE_VFORK = 0x00004000
CLONE_PARENT = 0x00008000
CLONE_THREAD = 0x00010000
CLONE_NEWNS = 0x00020000
CLONE_CHILD_CLEARTID = 0x00200000
CLONE_CHILD_SETTID = 0x01000000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_CLEAR_SIGHAND = 0x100000000  # Linux 5.5
CLONE_INTO_CGROUP = 0x200000000  # Linux 5.7

PR_GET_TID_ADDRESS = 40  # include/uapi/linux/prctl.h


class clone_args(ctypes.Structure):  # include/uapi/linux/sched.h, CLONE_ARGS_SIZE_VER2
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("pidfd", ctypes.c_uint64),
        ("child_tid", ctypes.c_uint64),
        ("parent_tid", ctypes.c_uint64),
        ("exit_signal", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("stack_size", ctypes.c_uint64),
        ("tls", ctypes.c_uint64),
        ("set_tid", ctypes.c_uint64),
        ("set_tid_size", ctypes.c_uint64),
        ("cgroup", ctypes.c_uint64),
    )


_gil_libc = ctypes.PyDLL(None, use_errno=True)
_gil_libc.syscall.restype = ctypes.c_long


def _tid_address() -> int:
    """Where glibc keeps this thread's id, or 0 before CONFIG_CHECKPOINT_RESTORE kernels."""
    address = ctypes.c_uint64()
    if libc.prctl(PR_GET_TID_ADDRESS, ctypes.c_ulong(ctypes.addressof(address)), 0, 0, 0) == -1:
        return 0
    return address.value


def clone3(
    flags: int,
    *,
    exit_signal: int = signal.SIGCHLD,
    set_tid: Sequence[int] = (),
    cgroup_fd: int | None = None,
) -> tuple[int, int]:
    """Fork this process with *flags*.

    The child goes on in the same Python frame, with a copy of the interpreter, and must behave
    accordingly: leave with ``os._exit`` or ``os.execve`` only, never by returning into the caller's
    cleanup; import nothing once its root has changed; and do no more than plain Python.

    A new process keeps our signal handlers, and Python's own run Python code in it. Pass
    ``CLONE_CLEAR_SIGHAND`` to reset those that are not ignored; ignored ones (Python ignores
    ``SIGPIPE``) stay ignored even across ``execve`` and are the child's to reset.

    Args:
        flags: ``CLONE_NEW*``, ``CLONE_PARENT``, ``CLONE_CLEAR_SIGHAND``. ``CLONE_PIDFD`` is always
            added. ``CLONE_VM`` and ``CLONE_THREAD`` cannot work here. With ``CLONE_FILES``
            neither of both may close anything that the other one's objects own.
        exit_signal: Sent to the parent when the child dies; 0 with ``CLONE_PARENT``.
        set_tid: Wanted process ids, innermost pid namespace first (Linux 5.5, needs
            CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN over those namespaces).
        cgroup_fd: A directory of the cgroup v2 tree to start in (Linux 5.7).

    Returns:
        ``(pid, pidfd)`` in the parent, the pid as our own pid namespace sees it and the pidfd
        close-on-exec; ``(0, -1)`` in the child.

    Raises:
        FileExistsError: A pid of *set_tid* is taken.
        OSError: The kernel refused, for instance ENOSPC at a namespace nesting limit.
        ValueError: Flags that would share memory with the child.

    Source: man 2 clone3, include/uapi/linux/sched.h (Linux 5.3).
    """
    if flags & (CLONE_VM | CLONE_THREAD):
        raise ValueError(f"clone3: flags {flags:#x} share state that Python cannot share")
    pidfd = ctypes.c_int(-1)
    tids = (ctypes.c_int32 * len(set_tid))(*set_tid)
    args = clone_args(
        flags=flags | CLONE_PIDFD,
        pidfd=ctypes.addressof(pidfd),
        exit_signal=exit_signal,
    )
    tid_address = _tid_address()
    if tid_address:
        args.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
        args.child_tid = tid_address
    if set_tid:
        args.set_tid = ctypes.addressof(tids)
        args.set_tid_size = len(set_tid)
    if cgroup_fd is not None:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    number, reference, size = ctypes.c_long(NR["clone3"]), ctypes.byref(args), clone_args_size
    call = _gil_libc.syscall
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = call(number, reference, size)
    err = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid == -1:
        raise OSError(err, f"clone3(flags={flags:#x}, set_tid={list(set_tid)}): {os.strerror(err)}")
    return pid, pidfd.value


clone_args_size = ctypes.c_size_t(ctypes.sizeof(clone_args))
