"""What tasks have asked the kernel for beside the usual: found out, and asked for again."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from formats.records.settings import ProcessSettings, TaskSettings, UserDispatch
from runtime.engine.context import DumpContext
from runtime.engine.new_task import NewTask
from runtime.engine.remote import Answers, Batch, Result, Tracee
from runtime.errors import RestoreError
from runtime.kernel import proc_task, ptrace, sched_core, user_desc
from runtime.kernel.landlock import landlock_domains
from runtime.kernel.numbers import NR
from runtime.kernel.prctl import (
    PR_GET_MDWE,
    PR_GET_MEMORY_MERGE,
    PR_GET_SPECULATION_CTRL,
    PR_GET_TSC,
    PR_MCE_KILL,
    PR_MCE_KILL_GET,
    PR_MCE_KILL_SET,
    PR_SET_IO_FLUSHER,
    PR_SET_MDWE,
    PR_SET_MEMORY_MERGE,
    PR_SET_SPECULATION_CTRL,
    PR_SET_TSC,
    PR_TIMER_CREATE_RESTORE_IDS,
    PR_TIMER_CREATE_RESTORE_IDS_GET,
)
from runtime.kernel.procfs import read_text

log = logging.getLogger(__name__)

SAVED = (
    (
        "attributes",
        "time-stamp counter and CPUID faulting, machine-check policy, speculation control, I/O "
        "flushers, syscall user dispatch, core scheduling groups, membarrier registrations, "
        "write-xor-execute, memory merging, core dump filter, permission for AMX, local and "
        "thread-local segment descriptors, login uid, nice level of the autogroup",
    ),
)
REFUSED = (
    ("shadow-stack", "a thread with a user-space shadow stack, or linear address masking"),
    ("keyring", "keys of a thread, of a process, or of its session"),
    ("io-ports", "a thread that may use I/O ports (ioperm)"),
    ("landlock", "a process that Landlock confines"),
    ("security-label", "a process with another SELinux or AppArmor label than the init"),
)

# arch_prctl(2), arch/x86/include/uapi/asm/prctl.h
ARCH_GET_CPUID, ARCH_SET_CPUID = 0x1011, 0x1012
ARCH_GET_XCOMP_PERM, ARCH_REQ_XCOMP_PERM = 0x1022, 0x1023
ARCH_GET_UNTAG_MASK = 0x4001
ARCH_SHSTK_STATUS = 0x5005
_DYNAMIC_FEATURES = (18,)  # XFEATURE_XTILE_DATA, which stands for what comes with it

# keyctl(2), include/uapi/linux/keyctl.h
KEYCTL_GET_KEYRING_ID, KEYCTL_DESCRIBE, KEYCTL_READ = 0, 6, 11
OF_THREAD, OF_PROCESS, OF_SESSION = -1, -2, -3

MEMBARRIER_CMD_GET_REGISTRATIONS = 1 << 9
MODIFY_LDT_WRITE = 0x11
_LDT_SIZE = 8 * 8192
NT_386_IOPERM = 0x201
PF_IO_FLUSHER = 0x00080000 | 0x00100000  # PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE, <linux/sched.h>
_ALL_ONES = 2**64 - 1
_PRCTL_BIT = 1  # PR_SPEC_PRCTL: the task may choose
_SPECULATION = range(3)  # PR_SPEC_STORE_BYPASS, _INDIRECT_BRANCH, _L1D_FLUSH


# Dump


class TaskQuestions:
    """What only a thread can say about itself, as part of a batch."""

    def __init__(self, batch: Batch) -> None:
        self._tsc = batch.out(4)
        batch.call("prctl", PR_GET_TSC, self._tsc, may_fail=True)
        self._mce = batch.call("prctl", PR_MCE_KILL_GET, 0, 0, 0, 0, may_fail=True)
        self._speculation = [
            batch.call("prctl", PR_GET_SPECULATION_CTRL, kind, 0, 0, 0, may_fail=True)
            for kind in _SPECULATION
        ]
        self._keyring = batch.call("keyctl", KEYCTL_GET_KEYRING_ID, OF_THREAD, 0, may_fail=True)
        self._cpuid: Result | None = None
        if "arch_prctl" in NR:
            self._cpuid = batch.call("arch_prctl", ARCH_GET_CPUID, 0, may_fail=True)
            self._shadow = batch.out(8)
            batch.call("arch_prctl", ARCH_SHSTK_STATUS, self._shadow, may_fail=True)
            self._mask = batch.data(struct.pack("<Q", _ALL_ONES))
            batch.call("arch_prctl", ARCH_GET_UNTAG_MASK, self._mask, may_fail=True)

    def read(
        self, context: DumpContext, tid: int, answers: Answers, dispatch: tuple[int, int, int, int]
    ) -> TaskSettings:
        """The thread's settings; refuses what cannot be saved."""
        subject = context.subject(tid)
        cpuid = True
        segments: tuple[bytes, ...] = ()
        if self._cpuid is not None:
            cpuid = answers[self._cpuid] != 0
            segments = tuple(user_desc.thread_areas(tid))
            mask = int.from_bytes(answers.read(self._mask), "little")
            if any(answers.read(self._shadow)) or mask != _ALL_ONES:
                context.refuse(
                    "shadow-stack", subject, "has a shadow stack or masks addresses, which is fixed"
                )
            if _has_ports(tid):
                context.refuse("io-ports", subject, "may use I/O ports")
        if answers[self._keyring] > 0:
            context.refuse("keyring", subject, "has a keyring for one of its threads")
        tsc = int.from_bytes(answers.read(self._tsc), "little")
        mce = answers[self._mce]
        return TaskSettings(
            tsc=tsc or 1,
            cpuid=cpuid,
            mce_kill=mce if mce >= 0 else 2,
            speculation=tuple(max(answers[result], 0) for result in self._speculation),
            io_flusher=context.stat(tid).flags & PF_IO_FLUSHER == PF_IO_FLUSHER,
            dispatch=UserDispatch(*dispatch) if dispatch[0] else None,
            segments=segments,
            core_group=sched_core.cookie(tid),
        )


def _has_ports(tid: int) -> bool:
    try:
        return any(byte != 0xFF for byte in ptrace.get_regset(tid, NT_386_IOPERM, 8192))
    except OSError as exc:
        if exc.errno in (errno.ENXIO, errno.EINVAL, errno.ENODEV, errno.EIO):
            return False
        raise


class ProcessQuestions:
    """What only a process can say about itself, as part of its leader's batch."""

    def __init__(self, batch: Batch) -> None:
        self._mdwe = batch.call("prctl", PR_GET_MDWE, 0, 0, 0, 0, may_fail=True)
        self._merge = batch.call("prctl", PR_GET_MEMORY_MERGE, 0, 0, 0, 0, may_fail=True)
        self._barriers = batch.call(
            "membarrier", MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0, may_fail=True
        )
        self._timer_ids = batch.call(
            "prctl",
            PR_TIMER_CREATE_RESTORE_IDS,
            PR_TIMER_CREATE_RESTORE_IDS_GET,
            0,
            0,
            0,
            may_fail=True,
        )
        self._keyring = batch.call("keyctl", KEYCTL_GET_KEYRING_ID, OF_PROCESS, 0, may_fail=True)
        # The sandbox has given it one; for who has none, asking would install another.
        session = batch.call("keyctl", KEYCTL_GET_KEYRING_ID, OF_SESSION, 0, may_fail=True)
        self._name = batch.out(64)
        batch.call("keyctl", KEYCTL_DESCRIBE, session, self._name, 64, may_fail=True)
        self._keys = batch.call("keyctl", KEYCTL_READ, session, 0, 0, may_fail=True)
        self._ldt: Result | None = None
        if "modify_ldt" in NR:
            self._permission = batch.out(8)
            batch.call("arch_prctl", ARCH_GET_XCOMP_PERM, self._permission, may_fail=True)
            self._ldt = batch.call("modify_ldt", 0, batch.out(8), 8, may_fail=True)

    def read(self, context: DumpContext, leader: Tracee, answers: Answers) -> ProcessSettings:
        """The settings of a process; refuses what cannot be saved.

        Args:
            context: The dump.
            leader: The task that has been asked.
            answers: What it said.
        """
        view, permission, descriptors = leader.tid, 0, b""
        if answers[self._keyring] > 0:
            context.refuse("keyring", context.subject(leader.pid), "has a keyring of its own")
        name = answers.read(self._name).partition(b"\0")[0].rpartition(b";")[2]
        if answers[self._keys] > 0 and not name.startswith(b"_uid"):
            context.refuse(
                "keyring", context.subject(leader.pid), "has keys in its session's keyring"
            )
        if self._ldt is not None:
            permission = int.from_bytes(answers.read(self._permission), "little")
            if answers[self._ldt]:
                descriptors = _read_descriptors(leader)
        core_dump = _read(view, "coredump_filter")
        login = _read(view, "loginuid")
        nice = re.search(r"nice (-?\d+)", _read(view, "autogroup"))
        return ProcessSettings(
            write_execute=max(answers[self._mdwe], 0),
            merge=answers[self._merge] > 0,
            barriers=max(answers[self._barriers], 0),
            core_dump=int(core_dump, 16) if core_dump else None,
            extended_state=permission,
            descriptors=descriptors,
            timer_ids=answers[self._timer_ids] > 0,
            login_uid=int(login) if login else 2**32 - 1,
            group_nice=int(nice[1]) if nice else None,
        )


def _read_descriptors(leader: Tracee) -> bytes:
    batch = Batch()
    room = batch.out(_LDT_SIZE)
    batch.call("modify_ldt", 0, room, _LDT_SIZE)
    found = leader.run(batch).read(room)
    return found.rstrip(b"\0").ljust(-(-len(found.rstrip(b"\0")) // 8) * 8, b"\0")


def _read(pid: int, name: str) -> str:
    try:
        return read_text(f"/proc/{pid}/{name}").strip("\0\n ")
    except OSError:
        return ""  # this kernel has no such file, or the security module nothing to say


def may_be_confined(pids: Iterable[int]) -> bool:
    """Whether Landlock may confine some process: it asks for no-new-privileges before."""
    for pid in pids:
        # Whoever ends meanwhile is no matter.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if proc_task.status(pid).ints("NoNewPrivs")[0]:
                return True
    return False


def check_landlock(context: DumpContext, view: int) -> None:
    """Refuse a process in a Landlock domain, which nobody can ask for its rules."""
    if not context.status(view).ints("NoNewPrivs")[0]:
        return
    domains = landlock_domains()
    try:
        is_confined = domains is not None and domains.confines(view)
    except (OSError, ValueError, KeyError) as exc:
        log.debug("Landlock: %s", exc)
        return
    if is_confined:
        context.refuse("landlock", context.subject(view), "is confined by Landlock")


def check_label(context: DumpContext, view: int) -> None:
    """Refuse a process with a security label that a restore would not give it."""
    own, label = (_read(pid, "attr/current") for pid in (context.target.init_pid, view))
    if own != label:
        context.refuse(
            "security-label", context.subject(view), f"has the label {label!r}, the init {own!r}"
        )


# Restore


def restore_settings(task: NewTask, settings: ProcessSettings, channel: socket.socket) -> None:
    """Settings of a process that leave it able to go on being rebuilt."""
    batch = Batch()
    for bit in range(1, 32):
        if settings.barriers >> bit & 1:
            batch.call("membarrier", 1 << bit, 0, 0)
    if settings.merge:
        batch.call("prctl", PR_SET_MEMORY_MERGE, 1, 0, 0, 0)
    for index in range(0, len(settings.descriptors), 8):
        raw = settings.descriptors[index : index + 8]
        if any(raw):
            entry = user_desc.from_descriptor(index // 8, raw)
            batch.call("modify_ldt", MODIFY_LDT_WRITE, entry, len(entry))
    if len(batch):
        task.do(batch)
    _ask_for_state(task, settings.extended_state)
    if settings.core_dump is not None:
        _write(task.tid, "coredump_filter", f"{settings.core_dump:#x}")
    if settings.login_uid != 2**32 - 1:
        _restore_login(task, settings.login_uid, channel)


def _ask_for_state(task: NewTask, wanted: int) -> None:
    for feature in _DYNAMIC_FEATURES:
        if wanted >> feature & 1:
            batch = Batch()
            asked = batch.call("arch_prctl", ARCH_REQ_XCOMP_PERM, feature, may_fail=True)
            if task.do(batch)[asked] < 0:
                raise RestoreError(
                    f"process {task.ns_pid} uses processor feature {feature}, which this host "
                    "does not give",
                    reason="cpu-features",
                )


def _write(pid: int, name: str, value: str) -> None:
    path = Path(f"/proc/{pid}/{name}")
    with contextlib.suppress(FileNotFoundError):
        if path.read_text().strip() != value.removeprefix("0x").rjust(8, "0"):
            path.write_text(value)


def _restore_login(task: NewTask, uid: int, channel: socket.socket) -> None:
    """Only a task itself may say who has logged in, and where audit rules are strict only once."""
    with open(f"/proc/{task.tid}/loginuid", "r+b", buffering=0) as file:
        if int(file.read() or b"0") == uid:
            return
        (number,) = task.receive(channel, [file.fileno()])
    batch = Batch()
    text = str(uid).encode()
    written = batch.call("pwrite64", number, text, len(text), 0, may_fail=True)
    batch.call("close", number)
    if task.do(batch)[written] < 0:
        log.warning("process %d: login uid %d is not set again", task.ns_pid, uid)


def restore_autogroup(task: NewTask, settings: ProcessSettings) -> None:
    """The nice level of a session's scheduling group."""
    if settings.group_nice:
        with contextlib.suppress(FileNotFoundError):
            Path(f"/proc/{task.pid}/autogroup").write_text(str(settings.group_nice))


def restore_task_settings(task: NewTask, settings: TaskSettings, cores: dict[int, NewTask]) -> None:
    """Settings of a thread that has all privileges still.

    Args:
        task: The thread.
        settings: What it had.
        cores: The first task of each core scheduling group, filled in.
    """
    batch = Batch()
    for call in _calls(settings):
        batch.call(*call)
    if settings.io_flusher:
        batch.call("prctl", PR_SET_IO_FLUSHER, 1, 0, 0, 0)
    if len(batch):
        task.do(batch)
    for area in settings.segments:
        user_desc.set_thread_area(task.tid, area)
    if settings.core_group:
        first = cores.setdefault(settings.core_group, task)
        if first is task:
            sched_core.create(task.tid)
        else:
            sched_core.share(first.tid, task.tid)


def _calls(settings: TaskSettings) -> Iterator[tuple[str, int, int, int, int, int]]:
    if settings.mce_kill != 2:
        yield "prctl", PR_MCE_KILL, PR_MCE_KILL_SET, settings.mce_kill, 0, 0
    for kind, state in enumerate(settings.speculation):
        if state & _PRCTL_BIT and state & ~_PRCTL_BIT:
            yield "prctl", PR_SET_SPECULATION_CTRL, kind, state & ~_PRCTL_BIT, 0, 0


def restrict(task: NewTask, settings: TaskSettings, process: ProcessSettings | None) -> None:
    """The last that is done by the task itself: what gets in the way of anything else.

    Args:
        task: A thread.
        settings: What it had.
        process: What its process had, for one thread of it.
    """
    batch = Batch()
    if settings.tsc != 1:
        batch.call("prctl", PR_SET_TSC, settings.tsc)
    if not settings.cpuid:
        batch.call("arch_prctl", ARCH_SET_CPUID, 0)
    if process is not None and process.write_execute:
        batch.call("prctl", PR_SET_MDWE, process.write_execute, 0, 0, 0)
    if process is not None and process.timer_ids:
        batch.call("prctl", PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0)
    if len(batch):
        task.do(batch)


def restore_dispatch(task: NewTask, settings: TaskSettings) -> None:
    """Syscall user dispatch; from here on the task can make no call of ours."""
    wanted = settings.dispatch
    if wanted is not None:
        ptrace.set_user_dispatch(
            task.tid, wanted.mode, wanted.offset, wanted.length, wanted.selector
        )
