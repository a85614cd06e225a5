"""Threads and processes: from stubs to what was saved, except for memory and files."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from formats.records.task import Credentials, Process, Thread
from runtime.engine import signals
from runtime.engine.arch import current as arch
from runtime.engine.new_task import NewTask
from runtime.engine.remote import DATA_OFFSET, Batch
from runtime.engine.restore_timers import rearmed_ids, timer_of
from runtime.errors import RestoreError
from runtime.kernel import proc_task, process_vm, ptrace, sched
from runtime.kernel.capabilities import last_capability
from runtime.kernel.prctl import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    PR_SET_DUMPABLE,
    PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    PR_SET_SECUREBITS,
    PR_SET_THP_DISABLE,
    PR_SET_TIMERSLACK,
)
from runtime.kernel.seccomp import (
    SECCOMP_FILTER_FLAG_LOG,
    SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    SECCOMP_FILTER_FLAG_TSYNC,
)

SAVED = (
    (
        "threads",
        "ids, names, thread-local storage, joins, robust lists, restartable sequences, per-"
        "thread masks, alternate stacks, scheduling and credentials",
    ),
    (
        "registers",
        "general, flags, segment bases, the whole extended state (x87, SSE, AVX, AVX-512, "
        "whatever the CPU has)",
    ),
)

_POLL_S = 0.0005
P_PID, WNOHANG, WSTOPPED = 1, 1, 2  # <sys/wait.h>
SECBIT_NO_SETUID_FIXUP = 1 << 2  # include/uapi/linux/securebits.h
_CAP_HEADER = struct.pack("<Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, ourselves
SECCOMP_SET_MODE_STRICT, SECCOMP_SET_MODE_FILTER = 0, 1
_SOCK_FPROG = struct.Struct("<HxxxxxxQ")


Translate = Callable[[str, int], int]


@dataclass(slots=True)
class RestoredProcess:
    """A process being put back, with its tasks in the order of the record's threads.

    Attributes:
        record: From the image.
        tasks: One for each of its threads.
        exiting: The first thread of a process where that has ended before the others.
    """

    record: Process
    tasks: list[NewTask]
    exiting: NewTask | None = None

    @property
    def leader(self) -> NewTask:
        """The task that acts for the process; its first thread, or the first that is left."""
        return self.tasks[0]

    @property
    def leader_ids(self) -> tuple[int, ...]:
        """The process's ids, from the container's pid namespace down."""
        return (self.record.pid, *self.record.nested_pids)


# Processes


def restore_state(process: RestoredProcess) -> None:
    """Handlers and what threads tell the kernel about themselves; all keep their privileges."""
    for task, thread in zip(process.tasks, process.record.threads, strict=True):
        batch = Batch()
        if task is process.leader:
            _add_process_state(batch, process.record)
        _add_thread_state(batch, thread)
        task.do(batch)
        _restore_scheduling(task.tid, thread)
    _restore_oom_score(process)


def _add_process_state(batch: Batch, record: Process) -> None:
    batch.call("personality", record.personality)
    if record.thp_disabled:
        batch.call("prctl", PR_SET_THP_DISABLE, 1, 0, 0, 0)
    for action in record.actions:
        packed = signals.SIGACTION.pack(action.handler, action.flags, action.restorer, action.mask)
        batch.call("rt_sigaction", action.signal, packed, 0, 8)


def _restore_oom_score(process: RestoredProcess) -> None:
    path = f"/proc/{process.leader.pid}/oom_score_adj"
    with open(path) as file:
        if int(file.read()) == process.record.oom_score_adj:
            return
    with open(path, "w") as file:
        file.write(str(process.record.oom_score_adj))


def _add_process_rights(batch: Batch, record: Process) -> None:
    """Whether it is dumpable, which a change of credentials resets (2 cannot be set and means 0),
    and resource limits: a lowered one would stand in the way of what comes before."""
    batch.call("prctl", PR_SET_DUMPABLE, int(record.dumpable == 1))
    for limit in record.limits:
        packed = struct.pack("<QQ", limit.soft, limit.hard)
        batch.call("prlimit64", 0, limit.resource, packed, 0)


# Threads


def _add_thread_state(batch: Batch, record: Thread) -> None:
    batch.call("prctl", PR_SET_NAME, record.comm + b"\0")
    batch.call("set_tid_address", record.clear_child_tid)
    if record.robust_list[0]:
        batch.call("set_robust_list", *record.robust_list)
    if record.rseq is not None:
        rseq = record.rseq
        batch.call("rseq", rseq.address, rseq.size, 0, rseq.signature)
    batch.call("prctl", PR_SET_TIMERSLACK, record.timer_slack_ns)
    stack = record.altstack
    flags = stack.flags & ~signals.SS_ONSTACK
    batch.call("sigaltstack", signals.STACK.pack(stack.address, flags, 0, stack.size), 0)


def _restore_scheduling(tid: int, record: Thread) -> None:
    wanted = record.scheduling
    # CPUs that this host does not have cannot be asked for.
    here = set(wanted.affinity) & os.sched_getaffinity(0)
    if here and here != os.sched_getaffinity(tid):
        os.sched_setaffinity(tid, here)
    attr = sched.get_attr(tid)
    now = (attr.sched_policy, attr.sched_nice, attr.sched_priority, attr.sched_flags)
    if now != (wanted.policy, wanted.nice, wanted.priority, wanted.flags):
        attr.sched_policy, attr.sched_flags = wanted.policy, wanted.flags
        attr.sched_nice, attr.sched_priority = wanted.nice, wanted.priority
        attr.sched_runtime = wanted.runtime_ns
        attr.sched_deadline, attr.sched_period = wanted.deadline_ns, wanted.period_ns
        sched.set_attr(tid, attr)
    if sched.io_priority_of(tid) != wanted.io_priority:
        sched.set_io_priority_of(tid, wanted.io_priority)


def restore_rights(
    process: RestoredProcess,
    translator: Callable[[NewTask], Translate],
    holders: Container[int],
) -> None:
    """Credentials and limits; afterwards the process can do no more than it could before.

    Args:
        process: All of its state that takes privileges is there.
        translator: What a thread's user namespace calls an id ("uid" or "gid") of the container.
        holders: The tasks that still have an end of the channel, which is closed.
    """
    for task, thread in reversed(list(zip(process.tasks, process.record.threads, strict=True))):
        batch = Batch()
        if task.tid in holders:
            batch.call("close", task.channel_fd)
        _add_privileges(batch, task, thread, translator(task))
        if task is process.leader:
            _add_process_rights(batch, process.record)
        task.do(batch)


def _add_privileges(batch: Batch, task: NewTask, record: Thread, translate: Translate) -> None:
    wanted = record.credentials
    if task.identity is None:
        _add_ids(batch, wanted.uids, wanted.gids, wanted.groups)
    else:
        _add_nested_ids(batch, wanted, task.identity, translate)
    _add_capabilities(batch, wanted)
    if record.parent_death_signal:
        # A change of credentials clears it.
        batch.call("prctl", PR_SET_PDEATHSIG, record.parent_death_signal)


def restore_ids(task: NewTask, wanted: Credentials) -> None:
    """Take user and group ids, and keep all privileges."""
    batch = Batch()
    _add_ids(batch, wanted.uids, wanted.gids, wanted.groups)
    task.do(batch)
    task.identity = wanted


def _add_ids(
    batch: Batch, uids: Sequence[int], gids: Sequence[int], groups: Sequence[int] | None
) -> None:
    batch.call("prctl", PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    if groups is not None:
        packed = struct.pack(f"<{len(groups)}I", *groups)
        batch.call("setgroups", len(groups), packed or b"\0")
    batch.call("setresgid", *gids[:3])
    batch.call("setfsgid", gids[3])
    batch.call("setresuid", *uids[:3])
    batch.call("setfsuid", uids[3])


def _add_nested_ids(
    batch: Batch, wanted: Credentials, now: Credentials, translate: Translate
) -> None:
    """The same within a user namespace, unless it has been done before that was entered."""
    if (wanted.uids, wanted.gids, wanted.groups) == (now.uids, now.gids, now.groups):
        return
    groups = None
    if wanted.groups != now.groups:
        groups = [translate("gid", gid) for gid in wanted.groups]
    uids = [translate("uid", uid) for uid in wanted.uids]
    gids = [translate("gid", gid) for gid in wanted.gids]
    _add_ids(batch, uids, gids, groups)


def _add_capabilities(batch: Batch, wanted: Credentials) -> None:
    caps = wanted.capabilities
    for capability in range(last_capability() + 1):
        if not caps.bounding >> capability & 1:
            batch.call("prctl", PR_CAPBSET_DROP, capability)
    batch.call("prctl", PR_SET_SECUREBITS, wanted.securebits)
    batch.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    sets = (caps.effective, caps.permitted, caps.inheritable)
    low = struct.pack("<3I", *(bits & 0xFFFFFFFF for bits in sets))
    high = struct.pack("<3I", *(bits >> 32 for bits in sets))
    batch.call("capset", _CAP_HEADER, low + high)
    for capability in range(64):
        if caps.ambient >> capability & 1:
            batch.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)
    if wanted.no_new_privs:
        batch.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def restore_filters(process: RestoredProcess) -> None:
    """Seccomp, while tasks still may; ptrace suspends it for what follows.

    What the filters of all threads begin with is installed in all of them at once. So it is one
    object again, on which SECCOMP_FILTER_FLAG_TSYNC depends.
    """
    chains = [thread.seccomp_filters for thread in process.record.threads]
    shared = 0
    while all(len(chain) > shared for chain in chains) and len({c[shared] for c in chains}) == 1:
        shared += 1
    first = process.record.threads[0]
    _install(process.leader, first, range(shared), SECCOMP_FILTER_FLAG_TSYNC)
    for task, thread in zip(process.tasks, process.record.threads, strict=True):
        _install(task, thread, range(shared, len(thread.seccomp_filters)), 0)
        if thread.seccomp_strict:
            task.call("seccomp", SECCOMP_SET_MODE_STRICT, 0, 0)


def _install(task: NewTask, thread: Thread, which: range, flags: int) -> None:
    for index in which:
        program = thread.seccomp_filters[index]
        batch = Batch()
        instructions = batch.data(program)
        prog = _SOCK_FPROG.pack(len(program) // 8, task.address(instructions))
        logged = SECCOMP_FILTER_FLAG_LOG if thread.seccomp_logged >> index & 1 else 0
        # Mitigations of speculation are settings of their own.
        how = flags | logged | SECCOMP_FILTER_FLAG_SPEC_ALLOW
        result = batch.call("seccomp", SECCOMP_SET_MODE_FILTER, how, prog)
        failed = task.do(batch)[result]
        if failed:
            raise RestoreError(f"thread {failed} cannot share a seccomp filter", reason="seccomp")


def flush_signals(task: NewTask) -> None:
    """Take every signal that the restore itself has caused, such as a zombie's SIGCHLD."""
    everything = struct.pack("<Q", 2**64 - 1)
    while any(ptrace.peek_siginfo(task.tid, shared=shared) for shared in (False, True)):
        batch = Batch()
        taken = batch.call("rt_sigtimedwait", everything, 0, bytes(16), 8, may_fail=True)
        if task.do(batch)[taken] <= 0:
            return


def queue_signals(process: RestoredProcess) -> None:
    """Queue what was pending; the tasks send it to themselves, which leaves it unchanged."""
    batch = Batch()
    record = process.record
    own_timers = rearmed_ids(record)
    for info in record.pending:
        if timer_of(info) in own_timers or _signal_of(info) == signal.SIGTRAP:
            continue
        batch.call("rt_sigqueueinfo", process.leader_ids[-1], _signal_of(info), info)
    if len(batch):
        # Only the first thread may send the process what seems to come from others.
        (process.exiting or process.leader).do(batch)
    for task, thread in zip(process.tasks, record.threads, strict=True):
        batch = Batch()
        for info in thread.pending:
            if timer_of(info) in own_timers or _signal_of(info) == signal.SIGTRAP:
                continue
            own = (process.leader_ids[-1], task.ids[-1])
            batch.call("rt_tgsigqueueinfo", *own, _signal_of(info), info)
        if len(batch):
            task.do(batch)


def queue_traps(process: RestoredProcess) -> None:
    """Queue pending SIGTRAPs, apart from the others: they would look like the end of a batch."""
    pid = process.leader_ids[-1]
    for info in process.record.pending:
        if _signal_of(info) == signal.SIGTRAP:
            process.leader.queue_trap(info, (pid,))
    for task, thread in zip(process.tasks, process.record.threads, strict=True):
        for info in thread.pending:
            if _signal_of(info) == signal.SIGTRAP:
                task.queue_trap(info, (pid, task.ids[-1]))


def end_leader(process: RestoredProcess) -> None:
    """Let the first thread of a process end, which becomes a zombie that nobody can wait for."""
    task, record = process.exiting, process.record
    if task is None:
        return
    if record.credentials is not None:
        restore_ids(task, record.credentials)
    batch = Batch()
    batch.call("prctl", PR_SET_NAME, record.comm + b"\0")
    batch.call("exit", record.exit_status >> 8)
    task.start(batch)
    while proc_task.stat(task.pid, task.tid).state != "Z":
        time.sleep(_POLL_S)


def _signal_of(info: bytes) -> int:
    return int.from_bytes(info[:4], "little")


def resume_sleep(task: NewTask, record: Thread, elapsed_ns: int) -> arch.Registers:
    """Give the kernel what is left of an interrupted sleep to remember; where the thread goes on.

    Args:
        task: With a scratch area, everything it needs for the call in place.
        record: Of the thread.
        elapsed_ns: How far the container's clock has come since the image was made.
    """
    registers = arch.Registers.unpack(record.registers)
    if record.sleep_left_ns is None or not registers.in_restartable:
        return registers.without_restart_block()
    left = max(record.sleep_left_ns - elapsed_ns, 0)
    room = task.scratch + DATA_OFFSET
    try:
        name, args, span = registers.rest_of_sleep(left, room)
    except KeyError:
        raise RestoreError(
            f"thread {record.tid} sleeps in no call that does", reason="image-inconsistent"
        ) from None
    process_vm.write(task.tid, room, span)
    result = task.interrupted_call(name, args)
    if result == -arch.ERESTART_RESTARTBLOCK:
        return registers
    # Over by now: its time, or what it waited for.
    return registers.with_result(result)


def restore_registers(task: NewTask, record: Thread, registers: arch.Registers) -> None:
    """The last step: the thread is now where it was."""
    ptrace.set_regset(task.tid, arch.NT_X86_XSTATE, record.xstate)
    task.set_registers(registers)


def restore_sigmask(task: NewTask, record: Thread) -> None:
    """Unblock: from here on a signal may be taken as soon as the task goes on."""
    ptrace.set_sigmask(task.tid, record.sigmask)


def stop_process(process: RestoredProcess) -> None:
    """Put a process into a job-control stop, without any of its threads running in between.

    The leader takes the stop signal, while everything else is blocked; the kernel then owes every
    other thread a stop, which it enters before it could return to user space.
    """
    sig = process.record.stopped
    ptrace.set_sigmask(process.leader.tid, (2**64 - 1) & ~(1 << (sig - 1)))
    os.kill(process.leader.pid, sig)
    for task in process.tasks:
        ptrace.resume(task.tid)
        while (stop := task.wait()).event != ptrace.PTRACE_EVENT_STOP:
            ptrace.resume(task.tid, stop.signal if stop.signal == sig else 0)
    for task, thread in zip(process.tasks, process.record.threads, strict=True):
        restore_sigmask(task, thread)


def swallow_stop(process: RestoredProcess, child: RestoredProcess) -> None:
    """Let a parent wait for a child's stop that it had already seen before the checkpoint."""
    seen = child.leader_ids[len(process.leader_ids) - 1]
    process.leader.call("waitid", P_PID, seen, 0, WNOHANG | WSTOPPED, 0)


def detach(task: NewTask) -> None:
    """Let a task go; it runs, or freezes if its cgroup is frozen."""
    with contextlib.suppress(ProcessLookupError):
        ptrace.detach(task.tid)
