"""Interval and POSIX timers: set last of all, to what is left of their time by then."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from formats.records.task import PosixTimer, Process
from runtime.engine import signals
from runtime.engine.new_task import NewTask
from runtime.engine.remote import Batch
from runtime.errors import RestoreError
from runtime.kernel.prctl import PR_TIMER_CREATE_RESTORE_IDS

SAVED = (
    (
        "timers",
        "overruns since the freeze, absolute ones of CLOCK_REALTIME for timerfd; clocks of CPU "
        "time start anew",
    ),
)
ITIMER_REAL = 0
TIMER_ABSTIME = 1
CLOCK_THREAD_CPUTIME_ID = 3
SIGEV_NONE, SIGEV_THREAD_ID = 1, 4  # include/uapi/asm-generic/siginfo.h
SI_TIMER = -2 & 0xFFFFFFFF
_SIGEVENT = struct.Struct("<Qiii44x")  # value, signal, notify, thread id; 64 bytes
_TIMESPEC = struct.Struct("<qq")
_MAX_TIMERS = 1 << 16


def timer_of(info: bytes) -> int | None:
    """The timer that has queued a signal, from its ``siginfo_t``."""
    code, timer = struct.unpack_from("<I4xi", info, 8)
    return timer if code == SI_TIMER else None


def rearmed_ids(record: Process) -> frozenset[int]:
    """The periodic timers whose signal is pending.

    Such a timer is set to a moment in the past instead of queueing that signal: then the signal is
    the timer's own again, of which there is only one, and counts what it overran.
    """
    queues = (record.pending, *(thread.pending for thread in record.threads))
    waiting = {timer_of(info) for queue in queues for info in queue}
    return frozenset(
        timer.timer_id
        for timer in record.posix_timers
        if timer.timer_id in waiting
        and timer.interval_ns
        and timer.value_ns
        and timer.clock in signals.RUNNING_CLOCKS
    )


def restore_timers(record: Process, tasks: Sequence[NewTask], elapsed_ns: int) -> None:
    """Make and set the timers of a process.

    Args:
        record: The process.
        tasks: Its threads, the one that acts for the process first.
        elapsed_ns: How far the container's clock has come since the image was made.
    """
    leader = tasks[0]
    batch = Batch()
    for timer in record.interval_timers:
        passed = elapsed_ns // 1000 if timer.which == ITIMER_REAL else 0
        left = max(timer.value_us - passed, 1)
        packed = signals.ITIMERVAL.pack(
            *divmod(timer.interval_us, signals.US), *divmod(left, signals.US)
        )
        batch.call("setitimer", timer.which, packed, 0)
    if len(batch):
        leader.do(batch)
    if record.posix_timers:
        by_tid = {thread.tid: task for thread, task in zip(record.threads, tasks, strict=True)}
        _create_timers(leader, by_tid, record.posix_timers)
        _set_timers(leader, record.posix_timers, rearmed_ids(record), elapsed_ns)


def _create_timers(
    leader: NewTask, by_tid: dict[int, NewTask], timers: tuple[PosixTimer, ...]
) -> None:
    """Create timers under their old numbers."""
    batch = Batch()
    # Linux 6.15 lets the caller choose. Before it numbers count up, so we count along.
    chosen = batch.call("prctl", PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0, may_fail=True)
    can_choose = leader.do(batch)[chosen] == 0
    following = 0
    for timer in sorted(timers, key=lambda timer: timer.timer_id):
        notify = timer.notify
        if notify & SIGEV_THREAD_ID and timer.tid not in by_tid:
            # The thread has ended: nobody gets the signal, now as before.
            notify = SIGEV_NONE
        event = _SIGEVENT.pack(timer.value, timer.signal, notify, timer.tid)
        if not can_choose:
            if timer.timer_id - following > _MAX_TIMERS:
                raise RestoreError(
                    f"timer {timer.timer_id} cannot be made, Linux 6.15 could", reason="timer-id"
                )
            while following < timer.timer_id:
                batch = Batch()
                room = batch.data(bytes(4))
                batch.call("timer_create", timer.clock, event, room)
                batch.call("timer_delete", following)
                leader.do(batch)
                following += 1
        # The clock of "the calling thread" is in all likelihood that of the one it notifies.
        mine = timer.clock == CLOCK_THREAD_CPUTIME_ID
        maker = by_tid.get(timer.tid, leader) if mine else leader
        batch = Batch()
        room = batch.data(struct.pack("<i", timer.timer_id))
        batch.call("timer_create", timer.clock, event, room)
        maker.do(batch)
        following = timer.timer_id + 1
    if can_choose:
        leader.call("prctl", PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0)


def _set_timers(
    leader: NewTask, timers: tuple[PosixTimer, ...], pending: frozenset[int], elapsed_ns: int
) -> None:
    now = _clocks(leader, {timer.clock for timer in timers} & signals.RUNNING_CLOCKS)
    batch = Batch()
    for timer in timers:
        if not timer.value_ns:
            continue
        left, flags = timer.value_ns, 0
        if timer.clock in signals.RUNNING_CLOCKS:
            left -= elapsed_ns
            if timer.timer_id in pending:
                left -= timer.interval_ns
            if left <= 0 and timer.interval_ns:
                # The kernel counts the periods since then, and keeps their beat.
                left, flags = max(now[timer.clock] + left, 1), TIMER_ABSTIME
        packed = signals.ITIMERSPEC.pack(
            *divmod(timer.interval_ns, signals.NS), *divmod(max(left, 1), signals.NS)
        )
        batch.call("timer_settime", timer.timer_id, flags, packed, 0)
    if len(batch):
        leader.do(batch)


def _clocks(leader: NewTask, clocks: set[int]) -> dict[int, int]:
    """What clocks show in a task, in nanoseconds."""
    if not clocks:
        return {}
    batch = Batch()
    rooms = {clock: batch.out(_TIMESPEC.size) for clock in clocks}
    for clock, room in rooms.items():
        batch.call("clock_gettime", clock, room)
    answers = leader.do(batch)
    found = {}
    for clock, room in rooms.items():
        seconds, nanoseconds = _TIMESPEC.unpack(answers.read(room))
        found[clock] = seconds * signals.NS + nanoseconds
    return found
