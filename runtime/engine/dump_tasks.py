"""Processes and threads into records.

Most of it is read from outside. What only the task can say (signal actions, timers, a few prctl
values) is asked for with one batch of system calls per thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from formats.records.settings import ProcessSettings
from formats.records.task import (
    AltStack,
    Capabilities,
    Credentials,
    IntervalTimer,
    PosixTimer,
    Rseq,
    Scheduling,
    SemaphoreAdjustment,
    SignalAction,
    Thread,
)
from runtime.engine import signals
from runtime.engine.arch import current as arch
from runtime.engine.context import DumpContext
from runtime.engine.freeze import undisturbed
from runtime.engine.remote import (
    ALL_BUT_TRAP,
    ENTRY_OFFSET,
    SCRATCH_SIZE,
    Answers,
    Batch,
    Out,
    Result,
    Tracee,
    map_scratch,
)
from runtime.engine.scopes import KINDS, Scopes
from runtime.engine.semaphore_undo import read_adjustments
from runtime.engine.task_settings import ProcessQuestions, TaskQuestions
from runtime.errors import TaskVanishedError
from runtime.kernel import proc_fdinfo, proc_maps, proc_task, process_vm, ptrace, sched
from runtime.kernel.prctl import (
    PR_GET_CHILD_SUBREAPER,
    PR_GET_DUMPABLE,
    PR_GET_PDEATHSIG,
    PR_GET_SECUREBITS,
    PR_GET_THP_DISABLE,
    PR_GET_TID_ADDRESS,
    PR_GET_TIMERSLACK,
)
from runtime.kernel.restart_block import restart_blocks
from runtime.kernel.robust_list import robust_list

SAVED = (
    (
        "signals",
        "handlers, flags, masks, alternate stacks, pending and queued signals with their "
        "values, for processes and for threads; a freeze inside a handler",
    ),
    (
        "timers",
        "interval timers, POSIX timers under their old ids, timerfd: remaining time, interval, "
        "expirations not yet read",
    ),
    (
        "credentials",
        "all user and group ids, groups, five capability sets, securebits, no-new-privileges, "
        "keep-caps",
    ),
    ("seccomp", "filters that the program installed, and those of the configuration"),
    (
        "attributes",
        "umask, cwd, root, limits, nice, scheduling policy, affinity, I/O priority, comm, "
        "personality, dumpable, timer slack, OOM adjustment, THP setting, command line, "
        "environment, auxiliary vector, executable",
    ),
)
REFUSED = (
    ("task-32bit", "a task that runs 32-bit code"),
    ("exec-session", "a process that entered the container by other ways than `exec`"),
)

log = logging.getLogger(__name__)

ITIMER_REAL = 0
_ITIMERS = (0, 1, 2)  # ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF
_SIGEV = {"signal": 0, "none": 1, "thread": 2}
SIGEV_THREAD_ID = 4
SA_RESTORER = 0x04000000  # arch/x86/include/uapi/asm/signal.h
P_PID = 1  # <sys/wait.h>
MCL_FUTURE, MCL_ONFAULT = 2, 4  # include/uapi/asm-generic/mman.h
F_GETFD, FD_CLOEXEC = 1, 1  # include/uapi/asm-generic/fcntl.h
PEEK_STOPPED = 0x01000003  # WNOHANG | WSTOPPED | WNOWAIT


@dataclass(slots=True)
class LiveProcess:
    """A process of the frozen container while it is dumped.

    Attributes:
        pid: In our own pid namespace.
        parent: In our own pid namespace; 0 for the init.
        tids: Its living threads, the leader first.
        parent_tid: The thread of the parent that it is a child of.
        leader_exited: Whether its first thread has ended and others go on.
        stat: /proc/PID/stat at the freeze.
        zombie: Whether only its exit status is left.
        mappings: Its address space.
        threads: The dumped threads, the leader first.
    """

    pid: int
    parent: int
    stat: proc_task.Stat
    zombie: bool
    tids: list[int] = field(default_factory=list)
    parent_tid: int = 0
    leader_exited: bool = False
    mappings: list[proc_maps.Mapping] = field(default_factory=list)
    threads: list[Thread] = field(default_factory=list)
    answers: ProcessAnswers | None = None
    pending: tuple[bytes, ...] = ()
    sigtrap_action: bytes = b""
    semaphore_undo: tuple[SemaphoreAdjustment, ...] = ()
    settings: ProcessSettings = field(default_factory=ProcessSettings)

    @property
    def view(self) -> int:
        """The task through which /proc shows the process: its leader has nothing left to show
        when it has exited."""
        return self.tids[0] if self.tids else self.pid


@dataclass(slots=True)
class ProcessAnswers:
    """What the leader said about its process."""

    actions: tuple[SignalAction, ...]
    interval_timers: tuple[IntervalTimer, ...]
    posix_timers: tuple[PosixTimer, ...]
    dumpable: int
    child_subreaper: bool
    thp_disabled: bool
    brk: int
    locked_future: int


@dataclass(slots=True)
class _Saved:
    """What a task must get back after batches have run in it.

    Attributes:
        registers: For the task itself.
        elsewhere: For a task that goes on in its place, or that the healer has brought back.
        sleep_end: When a relative sleep is to end: clock and nanoseconds.
        dispatch: Syscall user dispatch, which would catch our calls too.
    """

    registers: arch.Registers
    elsewhere: arch.Registers
    sleep_end: tuple[int, int] | None
    sigmask: int
    pending: tuple[bytes, ...]
    shared_pending: tuple[bytes, ...]
    xstate: bytes
    dispatch: tuple[int, int, int, int]


def collect_tree(context: DumpContext, scopes: Scopes) -> list[LiveProcess]:
    """Find the processes of the container, parents first, zombies too.

    Sessions of ``exec`` are trees of their own, beside the init's: their parent is outside.
    """
    found: list[LiveProcess] = []
    init = context.target.init_pid
    context.depth = len(proc_task.status(init).ns_pids) - 1
    pending = [(init, 0, 0), *((root, 0, 0) for root in _exec_sessions(context))]
    while pending:
        pid, parent, parent_tid = pending.pop(0)
        stat = proc_task.stat(pid)
        tids = proc_task.threads(pid)
        zombie = stat.state in "ZX"
        process = LiveProcess(pid, parent, stat, zombie, tids, parent_tid)
        if zombie and len(tids) > 1:
            process.zombie = False
            process.leader_exited = True
            process.tids = tids[1:]
            alive = proc_task.stat(pid, tids[1])
            process.stat = dataclasses.replace(
                alive, exit_signal=stat.exit_signal, exit_code=stat.exit_code, comm=stat.comm
            )
        found.append(process)
        _note_names(context, pid, stat.comm, tids)
        for tid in tids:
            scopes.look(tid, zombie=stat.state in "ZX" and tid == pid)
            pending += [(child, pid, tid) for child in proc_task.children(pid, tid)]
    known = {process.pid for process in found}
    for pid in context.frozen.pids:
        if pid not in known:
            _note_names(context, pid, proc_task.stat(pid).comm, proc_task.threads(pid))
            context.refuse(
                "exec-session",
                context.subject(pid),
                "is in the container's cgroup, but was not brought in by exec; end it first",
            )
    return found


def _exec_sessions(context: DumpContext) -> Iterator[int]:
    """The processes whose parents are outside, and who lead their own sessions in here."""
    init = context.target.init_pid
    pids = set(context.frozen.pids)
    ours = {kind: _namespace(os.getpid(), kind) for kind in KINDS}
    inside = {kind: _namespace(init, kind) for kind in KINDS}
    for pid in context.frozen.pids:
        stat = proc_task.stat(pid)
        if pid == init or stat.ppid in pids or stat.session != pid:
            continue
        # It may have made namespaces of its own since, but not have stayed in the host's.
        theirs = {kind: _namespace(pid, kind) for kind in KINDS}
        if theirs["pid"] == inside["pid"] and not any(
            theirs[kind] == ours[kind] != inside[kind] for kind in KINDS
        ):
            yield pid


def _namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def _note_names(context: DumpContext, pid: int, comm: bytes, tids: list[int]) -> None:
    context.comms[pid] = comm.decode(errors="replace")
    for tid in tids:
        ids = proc_task.status(pid, tid).ns_pids[context.depth :]
        context.ns_pids[tid] = ids[0] if ids else 0
        context.nested_pids[tid] = ids[1:]


def check_tasks(context: DumpContext) -> None:
    """Refuse what no batch could run in."""
    for tracee in context.frozen.tracees.values():
        try:
            wide = tracee.registers().is_64bit
        except ValueError:
            wide = False
        if not wide:
            what = "" if tracee.tid == tracee.pid else f"thread {context.own_id(tracee.tid)}"
            subject = context.subject(tracee.pid, what)
            context.refuse("task-32bit", subject, "runs 32-bit code")


# One process with its threads


@contextlib.contextmanager
def _scratch(process: LiveProcess, leader: Tracee) -> Iterator[_Traps]:
    """A scratch area in a process, with a handler that brings it back should we be killed.

    Gives the pending SIGTRAPs of leader and process, which it holds meanwhile.
    """
    instruction = find_syscall_instruction(process)
    saved = _look(leader)
    traps = _shelved(leader, saved, shared=True)
    with _borrowed(leader, saved):
        map_scratch(leader, instruction, scratch_address(process.mappings))
        leader.keep_state(saved.elsewhere, saved.xstate, saved.sigmask)
        batch = Batch()
        before = batch.out(signals.SIGACTION.size)
        handler = signals.SIGACTION.pack(leader.healer, SA_RESTORER, leader.healer, 0)
        batch.call("rt_sigaction", signal.SIGTRAP, handler, before, 8)
        process.sigtrap_action = leader.run(batch).read(before)
    try:
        yield traps
    finally:
        # A process that was killed meanwhile has nothing to be put back.
        with contextlib.suppress(ProcessLookupError, TaskVanishedError):
            saved = _look(leader)
            with _borrowed(leader, saved):
                room = leader.scratch + ENTRY_OFFSET
                process_vm.write(leader.tid, room, process.sigtrap_action)
                at = leader.syscall_instruction
                leader.call_at(at, "rt_sigaction", signal.SIGTRAP, room, 0, 8)
                _queue_again(leader, traps)
                # It vanishes under the call, which stops before the next instruction.
                leader.call_at(at, "munmap", leader.scratch, SCRATCH_SIZE)
                leader.scratch = 0


@dataclass(frozen=True, slots=True)
class _Traps:
    """The pending SIGTRAPs of a task, which have to be out of the way of batches."""

    own: tuple[bytes, ...] = ()
    shared: tuple[bytes, ...] = ()


def _shelved(tracee: Tracee, saved: _Saved, *, shared: bool) -> _Traps:
    """Take the pending SIGTRAPs of a task, with those of its process if *shared*."""
    own = tuple(filter(_is_trap, saved.pending))
    of_process = tuple(filter(_is_trap, saved.shared_pending)) if shared else ()
    if own or of_process:
        ptrace.set_sigmask(tracee.tid, ALL_BUT_TRAP)
        for _ in own + of_process:
            tracee.shelve_trap()
        ptrace.set_sigmask(tracee.tid, saved.sigmask)
    return _Traps(own, of_process)


def _is_trap(info: bytes) -> bool:
    return int.from_bytes(info[:4], "little") == signal.SIGTRAP


def _queue_again(tracee: Tracee, traps: _Traps) -> None:
    """Put back what `_shelved` has taken; a scratch area is there, and no batch comes any more."""
    if traps.own or traps.shared:
        pid, tid = proc_task.status(tracee.pid).ns_pids[-1], _own_tid(tracee)
        for info in traps.own:
            tracee.queue_trap(info, (pid, tid))
        for info in traps.shared:
            tracee.queue_trap(info, (pid,))


def _own_tid(tracee: Tracee) -> int:
    return proc_task.status(tracee.pid, tracee.tid).ns_pids[-1]


@contextlib.contextmanager
def _borrowed(tracee: Tracee, saved: _Saved) -> Iterator[None]:
    """Use a task for calls of ours; afterwards it has its registers and signal mask again."""
    ptrace.set_sigmask(tracee.tid, ALL_BUT_TRAP)
    if saved.dispatch[0]:
        ptrace.set_user_dispatch(tracee.tid, 0, 0, 0, 0)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            if saved.dispatch[0]:
                ptrace.set_user_dispatch(tracee.tid, *saved.dispatch)
            tracee.set_registers(saved.registers)
            tracee.settle()
            ptrace.set_sigmask(tracee.tid, saved.sigmask)


def _look(tracee: Tracee) -> _Saved:
    registers = tracee.registers()
    start = registers.rip - arch.CODE_BEFORE_CALL
    try:
        code = process_vm.read(tracee.tid, start, arch.CODE_BEFORE_CALL)
    except OSError:
        code = b""  # nothing readable there
    block = None
    if registers.in_restartable and (blocks := restart_blocks()) is not None:
        block = blocks.read(tracee.tid)
    elsewhere = registers.with_original_call(code, tracee.wait_channel, block)
    return _Saved(
        registers=registers,
        elsewhere=elsewhere,
        sleep_end=elsewhere.end_of_sleep(block) if block else None,
        sigmask=ptrace.get_sigmask(tracee.tid),
        pending=tuple(ptrace.peek_siginfo(tracee.tid, shared=False)),
        shared_pending=tuple(ptrace.peek_siginfo(tracee.tid, shared=True)),
        xstate=ptrace.get_regset(tracee.tid, arch.NT_X86_XSTATE, arch.XSTATE_MAX),
        dispatch=ptrace.user_dispatch(tracee.tid),
    )


def find_syscall_instruction(process: LiveProcess) -> int:
    """Address of a system-call instruction in the process: in the vDSO, or in any code."""
    code = [m for m in process.mappings if m.protection & proc_maps.PROT_EXEC]
    for mapping in sorted(code, key=lambda m: m.path != "[vdso]"):
        if mapping.start >= arch.TASK_SIZE or not mapping.protection & proc_maps.PROT_READ:
            continue
        length = min(mapping.end - mapping.start, 4 << 20)
        found = process_vm.read(process.view, mapping.start, length).find(arch.SYSCALL_INSTRUCTION)
        if found >= 0:
            return mapping.start + found
    raise LookupError(f"process {process.pid} has no system-call instruction in readable code")


def scratch_address(mappings: list[proc_maps.Mapping]) -> int:
    """A free place for the scratch area, away from where the program's next mappings go."""
    return find_hole([(m.start, m.end) for m in mappings], SCRATCH_SIZE)


def find_hole(taken: list[tuple[int, int]], size: int) -> int:
    """The lowest gap of *size* bytes, with a guard of as much on both sides."""
    start = 0x10000000
    for low, high in sorted(taken):
        if start + 3 * size <= low:
            break
        start = max(start, high)
    if start + 3 * size > arch.TASK_SIZE:
        raise LookupError(f"no free {3 * size} bytes of address space")
    return start + size


def dump_process(context: DumpContext, process: LiveProcess, scopes: Scopes) -> None:
    """Fill in ``threads`` and ``answers`` of a live process."""
    tracees = context.frozen.threads(process.pid)
    leader = tracees[0]
    with undisturbed(), _scratch(process, leader) as held:
        for tracee in tracees:
            tracee.scratch = leader.scratch
            saved = _look(tracee)
            traps = held if tracee is leader else _shelved(tracee, saved, shared=False)
            ask = _Questions(context, process, tracee, scopes, leader=tracee is leader)
            with _borrowed(tracee, saved):
                tracee.keep_state(saved.elsewhere, saved.xstate, saved.sigmask)
                answers = tracee.run(ask.batch)
                if tracee is leader:
                    process.settings = ask.settings(answers)
                    process.semaphore_undo = read_adjustments(context, leader, tracees[1:])
                else:
                    _queue_again(tracee, traps)
            if tracee is leader:
                saved.pending += traps.own
                process.pending = saved.shared_pending + traps.shared
            process.threads.append(ask.thread(answers, saved))
            if tracee is leader:
                process.answers = ask.process(answers)


def ask(context: DumpContext, process: LiveProcess, batch: Batch) -> Answers:
    """Run a batch in a live process after `dump_process`, which leaves no trace of it."""
    leader = context.frozen.threads(process.pid)[0]
    with undisturbed(), _scratch(process, leader):
        saved = _look(leader)
        with _borrowed(leader, saved):
            leader.keep_state(saved.elsewhere, saved.xstate, saved.sigmask)
            return leader.run(batch)


class _Questions:
    """One thread's batch, and the reading of its answers."""

    def __init__(
        self,
        context: DumpContext,
        process: LiveProcess,
        tracee: Tracee,
        scopes: Scopes,
        *,
        leader: bool,
    ) -> None:
        self.context = context
        self.process_view = process.view
        self.scopes = scopes
        self.tracee = tracee
        self.pid = process.pid
        self.sigtrap_action = process.sigtrap_action
        self._mappings = process.mappings
        self.batch = Batch()
        self._altstack = self.batch.out(signals.STACK.size)
        self.batch.call("sigaltstack", 0, self._altstack)
        self._tid_address = self._prctl_out(PR_GET_TID_ADDRESS, 8)
        self._pdeathsig = self._prctl_out(PR_GET_PDEATHSIG, 4)
        self._securebits = self.batch.call("prctl", PR_GET_SECUREBITS)
        self._timer_slack = self.batch.call("prctl", PR_GET_TIMERSLACK)
        self._settings = TaskQuestions(self.batch)
        if leader:
            self._ask_process()

    def _prctl_out(self, option: int, size: int) -> Out:
        room = self.batch.out(size)
        self.batch.call("prctl", option, room)
        return room

    def _ask_process(self) -> None:
        self._process_settings = ProcessQuestions(self.batch)
        self._actions: list[tuple[int, Out]] = []
        for number in range(1, signals.LAST_SIGNAL + 1):
            if number not in (*signals.UNCATCHABLE, signal.SIGTRAP):
                room = self.batch.out(signals.SIGACTION.size)
                self.batch.call("rt_sigaction", number, 0, room, 8)
                self._actions.append((number, room))
        self._itimers: list[tuple[int, Out]] = []
        for which in _ITIMERS:
            room = self.batch.out(signals.ITIMERVAL.size)
            self.batch.call("getitimer", which, room)
            self._itimers.append((which, room))
        self._timers: list[tuple[proc_task.TimerInfo, Out, Result]] = []
        for info in proc_task.timers(self.pid):
            room = self.batch.out(signals.ITIMERSPEC.size)
            self.batch.call("timer_gettime", info.timer_id, room)
            overrun = self.batch.call("timer_getoverrun", info.timer_id)
            self._timers.append((info, room, overrun))
        self._stops: list[tuple[int, Out]] = []
        for child in proc_task.children(self.pid):
            if child in self.context.frozen.group_stops:
                room = self.batch.out(ptrace.SIGINFO_SIZE)
                inside = self.context.seen_by(child, self.pid)
                self.batch.call("waitid", P_PID, inside, room, PEEK_STOPPED, 0)
                self._stops.append((child, room))
        # A slave that was opened through its master shows the close-on-exec flag which that was
        # asked for, whatever became of it since (TIOCGPTPEER).
        self._slaves = [
            (fd, self.batch.call("fcntl", fd, F_GETFD))
            for fd in proc_fdinfo.descriptors(self.pid)
            if proc_fdinfo.readlink(self.pid, fd).startswith("/dev/pts/")
        ]
        self._dumpable = self.batch.call("prctl", PR_GET_DUMPABLE)
        self._subreaper = self._prctl_out(PR_GET_CHILD_SUBREAPER, 4)
        self._brk = self.batch.call("brk", 0)
        self._thp = self.batch.call("prctl", PR_GET_THP_DISABLE, 0, 0, 0, 0)

    # Reading

    def process(self, answers: Answers) -> ProcessAnswers:
        """What the leader said about the process."""
        for fd, flags in self._slaves:
            if not answers[flags] & FD_CLOEXEC:
                self.context.inherited.add((self.pid, fd))
        for child, room in self._stops:
            # waitid leaves si_pid zero when there is nothing to report.
            if any(answers.read(room)[16:20]):
                self.context.unreported_stops.add(child)
        actions = []
        packed = [(number, answers.read(room)) for number, room in self._actions]
        for number, action in (*packed, (signal.SIGTRAP, self.sigtrap_action)):
            handler, flags, restorer, mask = signals.SIGACTION.unpack(action)
            if handler or flags or mask:
                actions.append(SignalAction(int(number), handler, flags, restorer, mask))
        return ProcessAnswers(
            actions=tuple(actions),
            interval_timers=tuple(self._interval_timers(answers)),
            posix_timers=tuple(self._posix_timer(answers, *timer) for timer in self._timers),
            dumpable=answers[self._dumpable],
            child_subreaper=any(answers.read(self._subreaper)),
            thp_disabled=bool(answers[self._thp]),
            brk=answers[self._brk],
            locked_future=self._locked_future(),
        )

    def _locked_future(self) -> int:
        """mlockall(2) flags for new mappings, which no interface shows: what of our own scratch?"""
        known = sum(m.end - m.start for m in self._mappings if "lo" in m.vm_flags)
        locked = int(proc_task.status(self.pid).fields.get("VmLck", "0 kB").split()[0]) << 10
        if locked <= known:
            return 0
        scratch = self.tracee.scratch
        flags = next(m.vm_flags for m in proc_maps.mappings(self.pid) if m.start == scratch)
        return MCL_FUTURE | (MCL_ONFAULT if "lf" in flags else 0)

    def _interval_timers(self, answers: Answers) -> Iterator[IntervalTimer]:
        for which, room in self._itimers:
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

    def settings(self, answers: Answers) -> ProcessSettings:
        """What the leader said of the settings of its process."""
        return self._process_settings.read(self.context, self.tracee, answers)

    def thread(self, answers: Answers, saved: _Saved) -> Thread:
        """The thread's record."""
        tid, pid = self.tracee.tid, self.pid
        status = proc_task.status(pid, tid)
        own = self.scopes.of(tid)
        address, flags, size = _altstack(answers.read(self._altstack))
        return Thread(
            tid=self.context.ns_pids[tid],
            comm=proc_task.stat(pid, tid).comm,
            registers=saved.elsewhere.pack(),
            xstate=saved.xstate,
            sigmask=saved.sigmask,
            pending=saved.pending,
            altstack=AltStack(address, flags, size),
            robust_list=robust_list(tid),
            clear_child_tid=_word(answers.read(self._tid_address)),
            rseq=_rseq(tid),
            credentials=credentials(self.scopes, status, answers[self._securebits]),
            scheduling=scheduling(tid),
            parent_death_signal=_word(answers.read(self._pdeathsig)),
            timer_slack_ns=answers[self._timer_slack],
            seccomp_filters=tuple(_filters(status, tid)),
            seccomp_strict=status.fields.get("Seccomp") == "1",
            nested_tids=self.context.nested_pids[tid],
            namespaces=None
            if own.nested == self.scopes.of(self.process_view).nested
            else own.nested,
            pid_for_children=own.pid_for_children,
            time_for_children=own.time_for_children,
            sleep_left_ns=self._sleep_left(saved),
            seccomp_logged=_logged(status, tid),
            settings=self._settings.read(self.context, tid, answers, saved.dispatch),
        )

    def _sleep_left(self, saved: _Saved) -> int | None:
        """What was left of a relative sleep at `DumpContext.clock_ns`."""
        if saved.sleep_end is None:
            return None
        clock, end = saved.sleep_end
        return end - time.clock_gettime_ns(clock) + self.context.since_clock()


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
