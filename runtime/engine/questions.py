"""What only a task can say about itself: asked in one batch a thread, and read into its record."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import time
from collections.abc import Iterator

from formats.records.settings import ProcessSettings
from formats.records.task import (
    AltStack,
    Capabilities,
    Credentials,
    IntervalTimer,
    PosixTimer,
    Rseq,
    Scheduling,
    SignalAction,
    Thread,
)
from runtime.engine import signals
from runtime.engine.arch import current as arch
from runtime.engine.borrowing import Saved
from runtime.engine.context import DumpContext
from runtime.engine.live_process import LiveProcess, ProcessAnswers
from runtime.engine.remote import Answers, Batch, Out, Result, Tracee
from runtime.engine.scopes import Scopes
from runtime.engine.task_settings import ProcessQuestions, TaskQuestions
from runtime.kernel import pidfd, proc_fdinfo, proc_maps, proc_task, ptrace, sched
from runtime.kernel.inet_diag import TCP_CLOSE, TCP_SYN_SENT
from runtime.kernel.prctl import (
    PR_GET_CHILD_SUBREAPER,
    PR_GET_DUMPABLE,
    PR_GET_PDEATHSIG,
    PR_GET_SECUREBITS,
    PR_GET_THP_DISABLE,
    PR_GET_TID_ADDRESS,
    PR_GET_TIMERSLACK,
)
from runtime.kernel.robust_list import robust_list

ITIMER_REAL = 0
_ITIMERS = (0, 1, 2)  # ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF
_SIGEV = {"signal": 0, "none": 1, "thread": 2}
SIGEV_THREAD_ID = 4
P_PID = 1  # <sys/wait.h>
MCL_FUTURE, MCL_ONFAULT = 2, 4  # include/uapi/asm-generic/mman.h
F_GETFD, FD_CLOEXEC = 1, 1  # include/uapi/asm-generic/fcntl.h
PEEK_STOPPED = 0x01000003  # WNOHANG | WSTOPPED | WNOWAIT


class _OfThread:
    """What every thread is asked."""

    def __init__(self) -> None:
        self.batch = Batch()
        self.altstack = self.batch.out(signals.STACK.size)
        self.batch.call("sigaltstack", 0, self.altstack)
        self.tid_address = self.prctl_out(PR_GET_TID_ADDRESS, 8)
        self.pdeathsig = self.prctl_out(PR_GET_PDEATHSIG, 4)
        self.securebits = self.batch.call("prctl", PR_GET_SECUREBITS)
        self.timer_slack = self.batch.call("prctl", PR_GET_TIMERSLACK)
        self.settings = TaskQuestions(self.batch)

    def prctl_out(self, option: int, size: int) -> Out:
        """Ask for a value that prctl(2) writes to memory."""
        room = self.batch.out(size)
        self.batch.call("prctl", option, room)
        return room


class _OfLeader(_OfThread):
    """What the leader of every process is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.process_settings = ProcessQuestions(self.batch)
        self.actions: list[tuple[int, Out]] = []
        for number in range(1, signals.LAST_SIGNAL + 1):
            if number not in (*signals.UNCATCHABLE, signal.SIGTRAP):
                room = self.batch.out(signals.SIGACTION.size)
                self.batch.call("rt_sigaction", number, 0, room, 8)
                self.actions.append((number, room))
        self.itimers: list[tuple[int, Out]] = []
        for which in _ITIMERS:
            room = self.batch.out(signals.ITIMERVAL.size)
            self.batch.call("getitimer", which, room)
            self.itimers.append((which, room))
        self.dumpable = self.batch.call("prctl", PR_GET_DUMPABLE)
        self.subreaper = self.prctl_out(PR_GET_CHILD_SUBREAPER, 4)
        self.brk = self.batch.call("brk", 0)
        self.thp = self.batch.call("prctl", PR_GET_THP_DISABLE, 0, 0, 0, 0)


# Some hundred calls, which are the same for every task: made once.
_of_thread = functools.cache(_OfThread)
_of_leader = functools.cache(_OfLeader)


class Questions:
    """One thread's batch, and the reading of its answers.

    Args:
        context: The dump.
        process: The thread's.
        tracee: The thread.
        scopes: Who is in which namespace.

    Attributes:
        batch: To be run in the thread.
    """

    def __init__(
        self, context: DumpContext, process: LiveProcess, tracee: Tracee, scopes: Scopes
    ) -> None:
        self.context = context
        self.process = process
        self.tracee = tracee
        self.scopes = scopes
        self._asked = self._ask()
        self.batch = self._asked.batch.copy()

    def _ask(self) -> _OfThread:
        return _of_thread()

    def of_thread(self, answers: Answers, saved: Saved) -> Thread:
        """The thread's record."""
        tid = self.tracee.tid
        asked = self._asked
        status = self.context.status(tid)
        own = self.scopes.of(tid)
        address, flags, size = _altstack(answers.read(asked.altstack))
        return Thread(
            tid=self.context.ns_pids[tid],
            comm=self.context.stat(tid).comm,
            registers=_connected(self.tracee, saved.elsewhere).pack(),
            xstate=saved.xstate,
            sigmask=saved.sigmask,
            pending=saved.pending,
            altstack=AltStack(address, flags, size),
            robust_list=robust_list(tid),
            clear_child_tid=_word(answers.read(asked.tid_address)),
            rseq=_rseq(tid),
            credentials=credentials(self.scopes, status, answers[asked.securebits]),
            scheduling=scheduling(tid),
            parent_death_signal=_word(answers.read(asked.pdeathsig)),
            timer_slack_ns=answers[asked.timer_slack],
            seccomp_filters=tuple(_filters(status, tid)),
            seccomp_strict=status.fields.get("Seccomp") == "1",
            nested_tids=self.context.nested_pids[tid],
            namespaces=None
            if own.nested == self.scopes.of(self.process.view).nested
            else own.nested,
            pid_for_children=own.pid_for_children,
            time_for_children=own.time_for_children,
            sleep_left_ns=self._sleep_left(saved),
            seccomp_logged=_logged(status, tid),
            settings=asked.settings.read(self.context, tid, answers, saved.dispatch),
        )

    def _sleep_left(self, saved: Saved) -> int | None:
        """What was left of a relative sleep at `DumpContext.clock_ns`."""
        if saved.sleep_end is None:
            return None
        clock, end = saved.sleep_end
        return end - time.clock_gettime_ns(clock) + self.context.since_clock()


class LeaderQuestions(Questions):
    """The batch of a thread that answers for its process, too."""

    def __init__(
        self, context: DumpContext, process: LiveProcess, tracee: Tracee, scopes: Scopes
    ) -> None:
        super().__init__(context, process, tracee, scopes)
        self._common = _of_leader()
        self._timers: list[tuple[proc_task.TimerInfo, Out, Result]] = []
        for info in proc_task.timers(process.pid):
            room = self.batch.out(signals.ITIMERSPEC.size)
            self.batch.call("timer_gettime", info.timer_id, room)
            overrun = self.batch.call("timer_getoverrun", info.timer_id)
            self._timers.append((info, room, overrun))
        self._stops: list[tuple[int, Out]] = []
        for child in proc_task.children(process.pid) if context.frozen.group_stops else ():
            if child in context.frozen.group_stops:
                room = self.batch.out(ptrace.SIGINFO_SIZE)
                inside = context.seen_by(child, process.pid)
                self.batch.call("waitid", P_PID, inside, room, PEEK_STOPPED, 0)
                self._stops.append((child, room))
        # A slave that was opened through its master shows the close-on-exec flag which that was
        # asked for, whatever became of it since (TIOCGPTPEER).
        self._slaves = [
            (fd, self.batch.call("fcntl", fd, F_GETFD))
            for fd in proc_fdinfo.descriptors(process.pid)
            if proc_fdinfo.readlink(process.pid, fd).startswith("/dev/pts/")
        ]

    def _ask(self) -> _OfThread:
        return _of_leader()

    def of_process(self, answers: Answers) -> ProcessAnswers:
        """What the leader said about the process."""
        for fd, flags in self._slaves:
            if not answers[flags] & FD_CLOEXEC:
                self.context.inherited.add((self.process.pid, fd))
        for child, room in self._stops:
            # waitid leaves si_pid zero when there is nothing to report.
            if any(answers.read(room)[16:20]):
                self.context.unreported_stops.add(child)
        actions = []
        packed = [(number, answers.read(room)) for number, room in self._common.actions]
        for number, action in (*packed, (signal.SIGTRAP, self.process.sigtrap_action)):
            handler, flags, restorer, mask = signals.SIGACTION.unpack(action)
            if handler or flags or mask:
                actions.append(SignalAction(int(number), handler, flags, restorer, mask))
        return ProcessAnswers(
            actions=tuple(actions),
            interval_timers=tuple(self._interval_timers(answers)),
            posix_timers=tuple(self._posix_timer(answers, *timer) for timer in self._timers),
            dumpable=answers[self._common.dumpable],
            child_subreaper=any(answers.read(self._common.subreaper)),
            thp_disabled=bool(answers[self._common.thp]),
            brk=answers[self._common.brk],
            locked_future=self._locked_future(),
        )

    def settings(self, answers: Answers) -> ProcessSettings:
        """What the leader said of the settings of its process."""
        return self._common.process_settings.read(self.context, self.tracee, answers)

    def _locked_future(self) -> int:
        """mlockall(2) flags for new mappings, which no interface shows: what of our own scratch?"""
        known = sum(m.end - m.start for m in self.process.mappings if "lo" in m.vm_flags)
        locked = (
            int(proc_task.status(self.process.pid).fields.get("VmLck", "0 kB").split()[0]) << 10
        )
        if locked <= known:
            return 0
        scratch = self.tracee.scratch
        flags = next(m.vm_flags for m in proc_maps.mappings(self.process.pid) if m.start == scratch)
        return MCL_FUTURE | (MCL_ONFAULT if "lf" in flags else 0)

    def _interval_timers(self, answers: Answers) -> Iterator[IntervalTimer]:
        for which, room in self._common.itimers:
            every_s, every_us, left_s, left_us = signals.ITIMERVAL.unpack(answers.read(room))
            left, every = left_s * signals.US + left_us, every_s * signals.US + every_us
            if left or every:
                # Without time left it has just expired: the kernel sets it anew when the pending
                # SIGALRM is taken. That signal is saved apart; the period after it is not.
                since = self.context.since_clock() // 1000 if which == ITIMER_REAL and left else 0
                yield IntervalTimer(which, (left or every) + since, every)

    def _posix_timer(
        self, answers: Answers, info: proc_task.TimerInfo, room: Out, overrun: Result
    ) -> PosixTimer:
        every_s, every_ns, left_s, left_ns = signals.ITIMERSPEC.unpack(answers.read(room))
        by_thread = info.by_thread
        notify = SIGEV_THREAD_ID if by_thread else _SIGEV.get(info.notify, 0)
        left = left_s * signals.NS + left_ns
        if left and info.clock in signals.RUNNING_CLOCKS:
            left += self.context.since_clock()
        return PosixTimer(
            timer_id=info.timer_id,
            clock=info.clock,
            notify=notify,
            signal=info.signal,
            value=info.value,
            tid=self.context.own_id(info.target) if by_thread else 0,
            value_ns=left,
            interval_ns=every_s * signals.NS + every_ns,
            overrun=max(answers[overrun], 0),
        )


def _connected(tracee: Tracee, registers: arch.Registers) -> arch.Registers:
    """With success for a connect(2) whose connection was made just when the freeze came.

    The kernel remembers that the call has not returned yet; a restored socket is simply connected,
    and the call made again would fail with EISCONN.
    """
    fd = registers.connecting
    if fd is None:
        return registers
    process = pidfd.open_pidfd(tracee.pid)
    try:
        with contextlib.suppress(OSError), socket.socket(fileno=pidfd.get_fd(process, fd)) as peer:
            state = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            if state not in (TCP_SYN_SENT, TCP_CLOSE):
                return registers.with_result(0)
    finally:
        os.close(process)
    return registers


def _altstack(data: bytes) -> tuple[int, int, int]:
    address, flags, _, size = signals.STACK.unpack(data)
    return address, flags, size


def _word(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _rseq(tid: int) -> Rseq | None:
    address, size, signature = ptrace.rseq(tid)
    return Rseq(address, size, signature) if address else None


def _filters(status: proc_task.Status, tid: int) -> list[bytes]:
    return ptrace.seccomp_filters(tid) if status.fields.get("Seccomp") == "2" else []


def _logged(status: proc_task.Status, tid: int) -> int:
    count = int(status.fields.get("Seccomp_filters", "0"))
    bits = (ptrace.seccomp_logged(tid, index) for index in range(count))
    return sum(bit << index for index, bit in enumerate(bits))


def credentials(scopes: Scopes, status: proc_task.Status, securebits: int) -> Credentials:
    """Who a task is, in the ids of the container's user namespace."""
    return Credentials(
        uids=tuple(scopes.to_container("uid", uid) for uid in status.ints("Uid")),
        gids=tuple(scopes.to_container("gid", gid) for gid in status.ints("Gid")),
        groups=tuple(scopes.to_container("gid", gid) for gid in status.ints("Groups")),
        capabilities=Capabilities(
            inheritable=status.mask("CapInh"),
            permitted=status.mask("CapPrm"),
            effective=status.mask("CapEff"),
            bounding=status.mask("CapBnd"),
            ambient=status.mask("CapAmb"),
        ),
        securebits=securebits,
        no_new_privs=status.fields.get("NoNewPrivs") == "1",
    )


def scheduling(tid: int) -> Scheduling:
    """How a task is scheduled."""
    attr = sched.get_attr(tid)
    return Scheduling(
        policy=attr.sched_policy,
        flags=attr.sched_flags,
        nice=attr.sched_nice,
        priority=attr.sched_priority,
        runtime_ns=attr.sched_runtime,
        deadline_ns=attr.sched_deadline,
        period_ns=attr.sched_period,
        affinity=tuple(sorted(os.sched_getaffinity(tid))),
        io_priority=sched.io_priority_of(tid),
    )
