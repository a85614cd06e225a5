"""Processes and threads into records.

Most of it is read from outside. What only the task can say (signal actions, timers, a few prctl
values) is asked for with one batch of system calls per thread.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

from formats.records.task import Thread
from runtime.engine.borrowing import borrowed, look, queue_again, scratch_area, shelved
from runtime.engine.context import DumpContext
from runtime.engine.freeze import undisturbed
from runtime.engine.live_process import LiveProcess
from runtime.engine.questions import LeaderQuestions, Questions
from runtime.engine.remote import Answers, Batch, Tracee
from runtime.engine.scopes import KINDS, Scopes
from runtime.engine.semaphore_undo import read_adjustments
from runtime.kernel import proc_task

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
        stat = context.stat(pid)
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
            _note_names(context, pid, context.stat(pid).comm, proc_task.threads(pid))
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
        stat = context.stat(pid)
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
        ids = context.status(tid).ns_pids[context.depth :]
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


def dump_process(context: DumpContext, process: LiveProcess, scopes: Scopes) -> None:
    """Fill in ``threads`` and ``answers`` of a live process."""
    leader, *others = context.frozen.threads(process.pid)
    with undisturbed(), scratch_area(process, leader) as loan:
        asked = LeaderQuestions(context, process, leader, scopes)
        answers = leader.run(asked.batch)
        process.settings = asked.settings(answers)
        process.semaphore_undo = read_adjustments(context, leader, others)
        process.threads.append(asked.of_thread(answers, loan.saved))
        process.answers = asked.of_process(answers)
        process.pending = loan.saved.shared_pending
        if others:
            loan.give_back()
        for tracee in others:
            tracee.scratch = leader.scratch
            process.threads.append(
                _dump_thread(tracee, Questions(context, process, tracee, scopes))
            )


def _dump_thread(tracee: Tracee, asked: Questions) -> Thread:
    saved = look(tracee)
    traps = shelved(tracee, saved, shared=False)
    with borrowed(tracee, saved):
        tracee.keep_state(saved.elsewhere, saved.xstate, saved.sigmask)
        answers = tracee.run(asked.batch)
        queue_again(tracee, traps)
    return asked.of_thread(answers, saved)


def ask(context: DumpContext, process: LiveProcess, batch: Batch) -> Answers:
    """Run a batch in a live process after `dump_process`, which leaves no trace of it."""
    leader = context.frozen.threads(process.pid)[0]
    with undisturbed(), scratch_area(process, leader):
        return leader.run(batch)
