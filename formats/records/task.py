"""Processes and threads."""

from __future__ import annotations

from dataclasses import dataclass, field

from formats.records.codec import record
from formats.records.settings import ProcessSettings, TaskSettings


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The five capability sets of a thread as bit masks, capabilities(7)."""

    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a thread is, credentials(7).

    Attributes:
        uids: Real, effective, saved, file-system; as seen from the container.
        gids: Real, effective, saved, file-system.
        groups: Supplementary groups.
        capabilities: The five sets.
        securebits: As prctl(PR_GET_SECUREBITS).
        no_new_privs: As prctl(PR_GET_NO_NEW_PRIVS).
    """

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: Capabilities
    securebits: int
    no_new_privs: bool


@dataclass(frozen=True, slots=True)
class Scheduling:
    """How a thread is scheduled, sched_setattr(2).

    Attributes:
        policy: ``SCHED_*``.
        flags: ``SCHED_FLAG_*``.
        nice: -20 to 19.
        priority: Of the real-time policies.
        runtime_ns: SCHED_DEADLINE, or the slice of SCHED_OTHER.
        deadline_ns: SCHED_DEADLINE.
        period_ns: SCHED_DEADLINE.
        affinity: CPU numbers the thread may run on.
        io_priority: As ioprio_get(2).
    """

    policy: int
    flags: int
    nice: int
    priority: int
    runtime_ns: int
    deadline_ns: int
    period_ns: int
    affinity: tuple[int, ...]
    io_priority: int


@dataclass(frozen=True, slots=True)
class Rseq:
    """A thread's restartable-sequence area, rseq(2)."""

    address: int
    size: int
    signature: int


@dataclass(frozen=True, slots=True)
class AltStack:
    """sigaltstack(2): address, ``SS_*`` flags and size in bytes."""

    address: int
    flags: int
    size: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One entry of a descriptor table: number, file record it refers to, close-on-exec."""

    fd: int
    file_id: int
    cloexec: bool


@dataclass(frozen=True, slots=True)
class Directories:
    """What clone(2)'s CLONE_FS shares.

    Attributes:
        fs_id: Tasks with the same number share it.
        cwd: Path in the container.
        root: Path in the container.
        cwd_file_id: The `RegularFile` of the working directory; 0 for that of ``cwd``.
        root_file_id: The `RegularFile` of the root, or 0 for that of the mount namespace.
        umask: File mode creation mask.
    """

    fs_id: int
    cwd: str
    root: str
    cwd_file_id: int
    root_file_id: int
    umask: int


@dataclass(frozen=True, slots=True)
class Table:
    """A descriptor table.

    Attributes:
        files_id: Tasks with the same number share it.
        descriptors: By number; empty when an earlier task has listed them.
    """

    files_id: int
    descriptors: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Thread:
    """One task of a process.

    Attributes:
        tid: In the container's pid namespace.
        comm: Name, at most 15 bytes.
        registers: ``NT_PRSTATUS`` as ptrace gives it.
        xstate: ``NT_X86_XSTATE`` (or the architecture's own) as ptrace gives it.
        sigmask: Blocked signals, bit n-1 for signal n.
        pending: Queued ``siginfo_t`` of this thread, 128 bytes each.
        altstack: Alternate signal stack.
        robust_list: Head of the robust futex list and its length, get_robust_list(2).
        clear_child_tid: Address cleared at exit, set_tid_address(2).
        rseq: Restartable sequences, or None.
        credentials: Each thread has its own.
        scheduling: Each thread has its own.
        parent_death_signal: prctl(PR_GET_PDEATHSIG).
        timer_slack_ns: prctl(PR_GET_TIMERSLACK).
        seccomp_filters: Classic BPF programs, oldest first, 8 bytes an instruction.
        seccomp_strict: Whether the thread is in strict mode.
        nested_tids: Its ids in the pid namespaces below the container's, the outermost first.
        namespaces: Ids of the namespaces that are not the sandbox's; None for the leader's.
        pid_for_children: Id of the pid namespace that its children will be in; 0 for its own.
        time_for_children: Id of the time namespace that its children will be in; 0 for its own.
        directories: Those of a thread that does not share its leader's.
        table: That of a thread that does not share its leader's.
        sleep_left_ns: What was left, at ``Host.monotonic_ns``, of the time of an interrupted call
            that goes on as restart_syscall(2); may be negative. None for other calls, and where
            it could not be found out.
        seccomp_logged: Bit n-1 for the nth filter that was installed with SECCOMP_FILTER_FLAG_LOG.
        settings: What it has asked the kernel for.
        cgroups: The cgroups that it is in, where that is not the container's own: hierarchy and
            path as in `Cgroup`.
    """

    tid: int
    comm: bytes
    registers: bytes
    xstate: bytes
    sigmask: int
    pending: tuple[bytes, ...]
    altstack: AltStack
    robust_list: tuple[int, int]
    clear_child_tid: int
    rseq: Rseq | None
    credentials: Credentials
    scheduling: Scheduling
    parent_death_signal: int
    timer_slack_ns: int
    seccomp_filters: tuple[bytes, ...] = ()
    seccomp_strict: bool = False
    nested_tids: tuple[int, ...] = ()
    namespaces: tuple[int, ...] | None = None
    pid_for_children: int = 0
    time_for_children: int = 0
    directories: Directories | None = None
    table: Table | None = None
    sleep_left_ns: int | None = None
    seccomp_logged: int = 0
    settings: TaskSettings = field(default=TaskSettings())
    cgroups: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SignalAction:
    """``struct sigaction`` as the kernel keeps it, rt_sigaction(2)."""

    signal: int
    handler: int
    flags: int
    restorer: int
    mask: int


@dataclass(frozen=True, slots=True)
class IntervalTimer:
    """getitimer(2): which (``ITIMER_*``), time left and interval in microseconds."""

    which: int
    value_us: int
    interval_us: int


@dataclass(frozen=True, slots=True)
class PosixTimer:
    """One timer_create(2) timer.

    Attributes:
        timer_id: The kernel's number.
        clock: ``CLOCK_*``, or a CPU clock of the process.
        notify: ``SIGEV_*``.
        signal: Sent at expiry.
        value: The ``sigval`` that goes along.
        tid: Thread that is notified, in the container's namespace, or 0.
        value_ns: Time left; 0 when disarmed.
        interval_ns: Of a periodic timer.
        overrun: Expirations not yet seen.
    """

    timer_id: int
    clock: int
    notify: int
    signal: int
    value: int
    tid: int
    value_ns: int
    interval_ns: int
    overrun: int


@dataclass(frozen=True, slots=True)
class ResourceLimit:
    """getrlimit(2): resource number, soft and hard limit; 2**64 - 1 is unlimited."""

    resource: int
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class SemaphoreAdjustment:
    """What a System V semaphore gets when the process ends (``SEM_UNDO``), semop(2).

    Attributes:
        ns_id: The IPC namespace.
        number: Id of the set.
        index: Semaphore in the set.
        adjustment: Added to its value; not 0.
    """

    ns_id: int
    number: int
    index: int
    adjustment: int


@record("process")
@dataclass(frozen=True, slots=True)
class Process:
    """One process; its threads share everything that stands here.

    Attributes:
        pid: In the container's pid namespace, as are the next three.
        ppid: 0 for the init.
        pgid: Process group.
        sid: Session.
        exit_signal: Sent to the parent at exit.
        zombie: Whether the process has ended and waits for its parent; then only the ids,
            ``exit_signal``, ``exit_status``, ``credentials`` and ``comm`` mean something.
        exit_status: Wait status of a zombie, or of a leader that has exited.
        comm: Name of the leader, for people.
        stopped: Stop signal of a job-control stop, or 0.
        stop_reported: Whether the parent has already been told of the stop.
        mm_id: The address space; processes with the same number share it, as for all of these.
        files_id: The descriptor table.
        fs_id: Working directory, root and umask.
        sighand_id: The signal handlers.
        undo_id: The list of semaphore adjustments, semop(2); 0 for none.
        io_id: The I/O context, clone(2)'s CLONE_IO; 0 for none.
        cwd: Path in the container.
        root: Path in the container; "/" unless the process has called chroot(2).
        cwd_file_id: The `RegularFile` of the working directory; 0 for that of ``cwd``.
        root_file_id: The `RegularFile` of the root, or 0 for that of the mount namespace.
        umask: File mode creation mask.
        personality: As personality(2).
        dumpable: prctl(PR_GET_DUMPABLE).
        child_subreaper: prctl(PR_GET_CHILD_SUBREAPER).
        thp_disabled: prctl(PR_GET_THP_DISABLE).
        oom_score_adj: From /proc.
        limits: All resource limits.
        actions: Signal handlers that are not the default.
        pending: Queued ``siginfo_t`` of the process, 128 bytes each.
        interval_timers: Those that are set.
        posix_timers: By id.
        threads: The leader first.
        descriptors: By number; empty when the table is shared with an earlier process.
        namespaces: Ids of the leader's namespaces that are not the sandbox's.
        nested_pids: Ids in the pid namespaces below the container's, the outermost first.
        nested_pgid: The process group there.
        nested_sid: The session there.
        parent_tid: The thread of the parent whose child it is; 0 for the leader.
        leader_exited: Whether the first thread has ended while others go on; it is not listed then.
        credentials: Those of a zombie, or of a leader that has exited.
        settings: What it has asked the kernel for.
        semaphore_undo: What it owes to System V semaphores.
    """

    pid: int
    ppid: int
    pgid: int
    sid: int
    exit_signal: int
    zombie: bool
    exit_status: int
    comm: bytes
    stopped: int = 0
    stop_reported: bool = True
    mm_id: int = 0
    files_id: int = 0
    fs_id: int = 0
    sighand_id: int = 0
    undo_id: int = 0
    io_id: int = 0
    cwd: str = "/"
    root: str = "/"
    cwd_file_id: int = 0
    root_file_id: int = 0
    umask: int = 0o022
    personality: int = 0
    dumpable: int = 1
    child_subreaper: bool = False
    thp_disabled: bool = False
    oom_score_adj: int = 0
    limits: tuple[ResourceLimit, ...] = field(default=())
    actions: tuple[SignalAction, ...] = field(default=())
    pending: tuple[bytes, ...] = field(default=())
    interval_timers: tuple[IntervalTimer, ...] = field(default=())
    posix_timers: tuple[PosixTimer, ...] = field(default=())
    threads: tuple[Thread, ...] = field(default=())
    descriptors: tuple[Descriptor, ...] = field(default=())
    namespaces: tuple[int, ...] = field(default=())
    semaphore_undo: tuple[SemaphoreAdjustment, ...] = field(default=())
    nested_pids: tuple[int, ...] = field(default=())
    nested_pgid: tuple[int, ...] = field(default=())
    nested_sid: tuple[int, ...] = field(default=())
    parent_tid: int = 0
    leader_exited: bool = False
    credentials: Credentials | None = None
    settings: ProcessSettings = field(default=ProcessSettings())
