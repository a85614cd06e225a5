"""Adjustments on exit (SEM_UNDO): what a process owes to semaphores, found without paying it.

The kernel shows nobody what it will add to a semaphore when a process ends, and no call asks for
it. But semop(2) refuses with ERANGE an operation that would drive the adjustment out of 16 bits,
and it does all operations of a call or none. So the process is made to try a series of operations
that leaves the semaphore's value where it is, moves the adjustment by a chosen amount, and ends in
an operation that cannot be done: ERANGE tells that the adjustment is below a bound, EAGAIN that it
is not, and in neither case has anything happened. Halving the range 16 times gives the number.

A process that has never asked for adjustments has no list of them, which kcmp(2) tells at once.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator

from formats.records.task import SemaphoreAdjustment
from runtime.engine.context import DumpContext
from runtime.engine.remote import Batch, Result, Tracee
from runtime.engine.sandbox.kind import Scope
from runtime.kernel import kcmp, sysvipc
from runtime.kernel.sysvipc import IPC_NOWAIT, SEM_UNDO, SEMBUF, SEMVMX
from runtime.kernel.visit import visiting_path

REFUSED = (
    ("ipc-outside", "adjustments on exit of semaphores that are not the container's"),
    ("own-undo", "threads that do not share the adjustments on exit of their process"),
)
LOWEST, HIGHEST = -SEMVMX - 1, SEMVMX  # of an adjustment, ipc/sem.c

Semaphore = tuple[int, int, int]  # set, index, value


def read_adjustments(
    context: DumpContext, leader: Tracee, others: Iterable[Tracee]
) -> tuple[SemaphoreAdjustment, ...]:
    """What a process owes to semaphores.

    Args:
        leader: Stopped, with a scratch area and its own state kept.
        others: Its other threads.
    """
    if not _has_list(leader.tid) and not any(_has_list(thread.tid) for thread in others):
        return ()
    _refuse_sharing(context, leader, others)
    scope = context.scopes["ipc", os.stat(f"/proc/{leader.tid}/ns/ipc").st_ino]
    found = _search(leader, _semaphores(scope))
    if found and scope.external:
        subject = context.subject(leader.pid)
        context.refuse("ipc-outside", subject, "owes something to semaphores of the host")
    return tuple(
        SemaphoreAdjustment(scope.ns_id, number, index, adjustment)
        for (number, index, _), adjustment in found.items()
    )


def _has_list(tid: int) -> bool:
    sysvipc.forget_own_undo()
    return kcmp.kcmp(tid, threading.get_native_id(), kcmp.KCMP_SYSVSEM) != 0


def _refuse_sharing(context: DumpContext, leader: Tracee, others: Iterable[Tracee]) -> None:
    """Refuse what a restore does not rebuild: it makes threads share a list."""
    for thread in others:
        if _has_list(thread.tid) and kcmp.kcmp(leader.tid, thread.tid, kcmp.KCMP_SYSVSEM):
            subject = context.subject(leader.pid, f"thread {context.ns_pids.get(thread.tid)}")
            context.refuse("own-undo", subject, "has semaphore adjustments of its own")
            return


def _semaphores(scope: Scope) -> list[Semaphore]:
    with visiting_path(scope.path, "ipc"):
        return [
            (row["semid"], index, value)
            for row in sysvipc.objects("sem")
            for index, value in enumerate(sysvipc.semaphore_values(row["semid"], row["nsems"]))
        ]


def _search(tracee: Tracee, semaphores: list[Semaphore]) -> dict[Semaphore, int]:
    """The adjustments that are not zero."""
    # Nearly all are zero: below one, and not below zero.
    negative = _below(tracee, [(one, 0) for one in semaphores])
    positive = set(semaphores) - _below(tracee, [(one, 1) for one in semaphores])
    ranges = dict.fromkeys(negative, (LOWEST, -1)) | dict.fromkeys(positive, (1, HIGHEST))
    while undecided := [one for one, (low, high) in ranges.items() if low < high]:
        middles = {one: (sum(ranges[one]) + 1) // 2 for one in undecided}
        below = _below(tracee, list(middles.items()))
        for one, middle in middles.items():
            low, high = ranges[one]
            ranges[one] = (low, middle - 1) if one in below else (middle, high)
    return {one: low for one, (low, _) in ranges.items()}


def _below(tracee: Tracee, questions: list[tuple[Semaphore, int]]) -> set[Semaphore]:
    """Those semaphores for which the process's adjustment is below the bound beside them."""
    found: set[Semaphore] = set()
    batch, asked = Batch(), dict[Semaphore, tuple[Result, int]]()
    for position, (semaphore, bound) in enumerate(questions):
        number, index, value = semaphore
        operations = _shift(index, value, bound - LOWEST) + _impossible(index, value)
        count = len(operations) // SEMBUF.size
        asked[semaphore] = (
            batch.call("semop", number, batch.data(operations), count, may_fail=True),
            bound,
        )
        if batch.full or position == len(questions) - 1:
            answers = tracee.run(batch)
            for one, (result, limit) in asked.items():
                error = -answers[result]
                # Whoever may not operate on a set has not done so: its adjustment is zero.
                if error == errno.ERANGE or (error != errno.EAGAIN and limit > 0):
                    found.add(one)
            batch, asked = Batch(), {}
    return found


def _shift(index: int, value: int, amount: int) -> bytes:
    """Operations that lower an adjustment by *amount* and leave the value as it is."""
    packed = b""
    for step in _steps(value, amount):
        up = SEMBUF.pack(index, step, SEM_UNDO)
        down = SEMBUF.pack(index, -step, 0)
        packed += up + down if value + step <= SEMVMX else down + up
    return packed


def _steps(value: int, amount: int) -> Iterator[int]:
    """*amount* in parts that the value, 0 to SEMVMX, can go up or down by."""
    largest = max(value, SEMVMX - value)
    while amount:
        step = min(amount, largest)
        yield step
        amount -= step


def _impossible(index: int, value: int) -> bytes:
    """An operation that would have to wait."""
    return SEMBUF.pack(index, 0 if value else -1, IPC_NOWAIT)


def operations_for(index: int, value: int, adjustment: int) -> Iterator[bytes]:
    """Operations, for one semop(2) each, that give whoever does them an adjustment."""
    for step in _steps(value, abs(adjustment)):
        signed = step if adjustment > 0 else -step
        # What is taken with SEM_UNDO is given back at the end, and the other way round.
        first = SEMBUF.pack(index, -signed, SEM_UNDO)
        second = SEMBUF.pack(index, signed, 0)
        yield first + second if 0 <= value - signed <= SEMVMX else second + first
