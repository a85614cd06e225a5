"""Probes of what wherry does to tasks: seize, look at, compare, make anew."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from pathlib import Path

from runtime.kernel.features import Need, UnavailableError, probe
from runtime.kernel.libc import libc, syscall
from runtime.kernel.probes.attempt import number_of, raw, seized_subject, subject

_GROUP = "tasks"

# <linux/ptrace.h>
PTRACE_GETREGSET = 0x4204
PTRACE_PEEKSIGINFO = 0x4209
PTRACE_GETSIGMASK = 0x420A
PTRACE_GET_RSEQ_CONFIGURATION = 0x420F
PTRACE_O_SUSPEND_SECCOMP = 1 << 21
# <linux/elf.h>
NT_PRSTATUS = 1
NT_X86_XSTATE = 0x202
# <linux/kcmp.h>
KCMP_FILE = 0
# <linux/sched.h>
CLONE_NEWPID = 0x20000000
# <linux/prctl.h>
PR_SET_MM = 35
PR_SET_MM_MAP_SIZE = 15
PR_TIMER_CREATE_RESTORE_IDS = 77  # Linux 6.15
PR_TIMER_CREATE_RESTORE_IDS_GET = 2
# <linux/pidfd.h>: _IOWR(0xFF, 11, struct pidfd_info), Linux 6.13; the exit information 6.15
PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO_SIZES = (64, 72, 80)
_PIDFD_GET_INFO = 0xC000FF0B

# Our own handle: what arguments prctl takes depends on the first one.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def _getregset(pid: int, kind: int, capacity: int) -> int:
    buffer = ctypes.create_string_buffer(capacity)
    vector = struct.pack("QQ", ctypes.addressof(buffer), capacity)
    iovec = ctypes.create_string_buffer(vector, len(vector))
    raw("ptrace", PTRACE_GETREGSET, pid, kind, ctypes.addressof(iovec))
    return int(struct.unpack("QQ", iovec.raw)[1])


@probe(
    "ptrace-seize",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="stopping every thread and acting inside it",
    without_it="no checkpoint and no restore",
)
def _ptrace_seize() -> str:
    with seized_subject() as pid:
        _getregset(pid, NT_PRSTATUS, 1024)
    return ""


@probe(
    "xstate",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="saving the floating point and vector registers whole",
    without_it="no checkpoint and no restore",
)
def _xstate() -> str:
    with seized_subject() as pid:
        size = _getregset(pid, NT_X86_XSTATE, 64 * 1024)
    return f"{size} bytes"


@probe(
    "ptrace-rseq",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="finding a thread's restartable sequence area (PTRACE_GET_RSEQ_CONFIGURATION)",
    without_it="no checkpoint",
)
def _ptrace_rseq() -> str:
    with seized_subject() as pid:
        config = ctypes.create_string_buffer(24)
        size = ctypes.sizeof(config)
        raw("ptrace", PTRACE_GET_RSEQ_CONFIGURATION, pid, size, ctypes.addressof(config))
    return ""


@probe(
    "ptrace-signals",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="reading signal masks and queued signals with their values",
    without_it="no checkpoint",
)
def _ptrace_signals() -> str:
    with seized_subject() as pid:
        mask = ctypes.create_string_buffer(8)
        raw("ptrace", PTRACE_GETSIGMASK, pid, 8, ctypes.addressof(mask))
        wanted = ctypes.create_string_buffer(struct.pack("QIi", 0, 0, 1), 16)
        info = ctypes.create_string_buffer(128)
        raw("ptrace", PTRACE_PEEKSIGINFO, pid, ctypes.addressof(wanted), ctypes.addressof(info))
    return ""


@probe(
    "ptrace-suspend-seccomp",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="making calls inside tasks, also those that have a seccomp filter",
    without_it="no checkpoint and no restore",
)
def _ptrace_suspend_seccomp() -> str:
    with seized_subject(PTRACE_O_SUSPEND_SECCOMP):
        return ""


@probe(
    "pidfd-getfd",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="borrowing a task's descriptors to look at what they refer to",
    without_it="no checkpoint",
)
def _pidfd_getfd() -> str:
    receive, send = os.pipe()
    try:
        with subject() as pid:
            pidfd = os.pidfd_open(pid)
            try:
                os.close(raw("pidfd_getfd", pidfd, receive, 0))
            finally:
                os.close(pidfd)
    finally:
        os.close(receive)
        os.close(send)
    return ""


@probe(
    "pidfd-exit-info",
    group=_GROUP,
    used_for="reading the exit status of a process that is not our child",
    without_it="the monitor, which is its parent, is asked instead",
)
def _pidfd_exit_info() -> str:
    import fcntl

    pid = os.fork()
    if pid == 0:
        os._exit(0)
    pidfd = os.pidfd_open(pid)
    try:
        os.waitpid(pid, 0)
        for size in _PIDFD_INFO_SIZES:
            info = bytearray(struct.pack("Q", PIDFD_INFO_EXIT) + bytes(size - 8))
            try:
                fcntl.ioctl(pidfd, _PIDFD_GET_INFO | size << 16, info)
            except OSError:
                continue
            if struct.unpack_from("Q", info)[0] & PIDFD_INFO_EXIT:
                return f"{size} bytes of information"
        raise UnavailableError("the pidfd gives no exit information (Linux 6.15 has it)")
    finally:
        os.close(pidfd)


@probe(
    "kcmp",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="finding which tasks share a descriptor table, an open file or an address space",
    without_it="no checkpoint",
)
def _kcmp() -> str:
    receive, send = os.pipe()
    try:
        with subject() as pid:
            if raw("kcmp", pid, os.getpid(), KCMP_FILE, receive, receive) != 0:
                raise UnavailableError("kcmp sees one open file as two")
    finally:
        os.close(receive)
        os.close(send)
    return ""


@probe(
    "clone3-set-tid",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="making a task again under its old id",
    without_it="no restore",
)
def _clone3_set_tid() -> str:
    wanted = (ctypes.c_int32 * 1)(1)
    # struct clone_args, <linux/sched.h>: flags, pidfd, child_tid, parent_tid, exit_signal, stack,
    # stack_size, tls, set_tid, set_tid_size, cgroup
    words = (CLONE_NEWPID, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
    packed = struct.pack("11Q", *words)
    args = ctypes.create_string_buffer(packed, len(packed))
    # PyDLL keeps the interpreter lock over the call, as a fork has to.
    clone3 = ctypes.PyDLL(None, use_errno=True).syscall
    clone3.restype = ctypes.c_long
    pid = clone3(ctypes.c_long(number_of("clone3")), args, ctypes.c_long(len(packed)))
    if pid == 0:
        os._exit(0)
    if pid < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.waitpid(pid, 0)
    return ""


@probe(
    "prctl-mm-map",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="giving a restored process its code, heap, stack and argument addresses",
    without_it="no restore",
)
def _prctl_mm_map() -> str:
    size = ctypes.c_uint(0)
    arguments = (PR_SET_MM, PR_SET_MM_MAP_SIZE, ctypes.addressof(size), 0, 0)
    if _prctl(*(ctypes.c_ulong(argument) for argument in arguments)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return f"{size.value} bytes"


@probe(
    "timer-restore-ids",
    group=_GROUP,
    used_for="making a POSIX timer again under its old id at once",
    without_it="timers are made and deleted until the id comes round",
)
def _timer_restore_ids() -> str:
    arguments = (PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0)
    if _prctl(*(ctypes.c_ulong(argument) for argument in arguments)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return ""


@probe(
    "robust-list",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="keeping robust mutexes robust",
    without_it="no checkpoint",
)
def _robust_list() -> str:
    head, length = ctypes.c_ulong(), ctypes.c_ulong()
    with subject() as pid:
        raw("get_robust_list", pid, ctypes.addressof(head), ctypes.addressof(length))
    return ""


@probe(
    "proc-timers",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="finding a process's POSIX timers",
    without_it="no checkpoint",
)
def _proc_timers() -> str:
    Path("/proc/self/timers").read_bytes()
    return ""


@probe(
    "executable-memfd",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="starting a restored process from a stub that is in no file system",
    without_it="no restore",
)
def _executable_memfd() -> str:
    # MFD_EXEC (Linux 6.3) is refused when the vm.memfd_noexec setting forbids it; older kernels
    # do not know the flag and always make executable ones.
    name = ctypes.create_string_buffer(b"probe")
    try:
        fd = libc.memfd_create(name, 0x0010 | os.MFD_CLOEXEC)
        if fd < 0:
            fd = os.memfd_create("probe", os.MFD_CLOEXEC)
        mode = os.fstat(fd).st_mode
    finally:
        if fd >= 0:
            os.close(fd)
    if not mode & 0o111:
        raise UnavailableError("the setting vm.memfd_noexec forbids it")
    return ""


@probe(
    "seccomp-filter",
    group=_GROUP,
    used_for="linux.seccomp of the configuration",
    without_it="a configuration with a seccomp profile is refused",
)
def _seccomp_filter() -> str:
    # SECCOMP_GET_ACTION_AVAIL (2) of SECCOMP_RET_ALLOW, <linux/seccomp.h>
    action = ctypes.c_uint32(0x7FFF0000)
    number = {"x86_64": 317, "aarch64": 277}.get(os.uname().machine)
    if number is None:
        raise UnavailableError(f"the number of seccomp is not known on {os.uname().machine}")
    syscall("seccomp", number, 2, 0, ctypes.addressof(action))
    return ""
