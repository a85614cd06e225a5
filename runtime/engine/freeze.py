"""Freeze a container: every task of it stopped, and held by this thread.

The cgroup freezer stops the container as a whole, so that no task can fork while we look for its
tasks. Each is then seized with ptrace and asked to stop; thawing the cgroup moves them from the
freezer into their ptrace stop without a single instruction of theirs in between. If wherry dies,
the kernel detaches them and they run on.

A task waiting for its vfork child cannot stop before that child has called exec, and the child is
stopped. So it runs on, alone, until it has done so. If even that does not help, everything goes on,
and the freeze begins anew.

A program that is being seized, or that a batch is running in, must not be left half way: signals
that would end us as an exception wait until such a step is done (`undisturbed`).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import signal
import time
from collections.abc import Callable, Iterator

from formats.errors import Refusal
from runtime.engine.api import Freezer
from runtime.engine.remote import Tracee
from runtime.errors import CheckpointError, RefusedError, TaskVanishedError
from runtime.kernel import kcmp, proc_task, ptrace

SAVED = (
    (
        "system calls",
        "a call that blocks at the freeze goes on or restarts and does not see `EINTR`; a sleep "
        "or time-out goes on with the time that is left of it (with all of it where the kernel "
        "offers no BPF iterator over tasks)",
    ),
)
REFUSED = (
    ("traced-task", "a process under a debugger"),
    ("vfork", "a parent that waits for its vfork child, for longer than ten seconds; try again"),
)

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5.0
FREEZER_PATIENCE_S = 0.02  # a task that the freezer cannot stop may still come to a stop of ours
VFORK_TIMEOUT_S = 10.0  # for vfork children to come to their exec, over all attempts
VFORK_PATIENCE_S = 0.2  # the same in the first attempt, with everybody else stopped
_POLL_S = 0.0005
OPTIONS = ptrace.PTRACE_O_TRACESYSGOOD | ptrace.PTRACE_O_SUSPEND_SECCOMP


class Frozen:
    """The stopped tasks of a container.

    Args:
        patience_s: How long a vfork child may take to its exec while everybody else has stopped.

    Attributes:
        tracees: By task id in our own pid namespace.
        moving: Those of them that have been seized but have not stopped yet.
        group_stops: Stop signal of the processes that were stopped by job control, by process.
        on_their_way: Those of the moving ones that nobody has asked to stop; see `let_go`.
        let_go_once: Tasks that ran on after their first stop.
    """

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self.tracees: dict[int, Tracee] = {}
        self.moving: set[int] = set()
        self.group_stops: dict[int, int] = {}
        self.on_their_way: set[int] = set()
        self.let_go_once: set[int] = set()
        self._by_process: dict[int, list[Tracee]] = {}  # made when all have stopped

    @property
    def pids(self) -> list[int]:
        """The processes, as our pid namespace sees them."""
        return sorted({tracee.pid for tracee in self.tracees.values()})

    def threads(self, pid: int) -> list[Tracee]:
        """The tasks of one process, the leader first."""
        if self.moving or len(self._by_process) == 0:
            self._by_process = {}
            for tracee in self.tracees.values():
                self._by_process.setdefault(tracee.pid, []).append(tracee)
        own = self._by_process.get(pid, [])
        return sorted(own, key=lambda tracee: (tracee.tid != pid, tracee.tid))

    def collect_stops(self) -> None:
        """Take note of every task that has reached its stop, or is gone."""
        for tid in sorted(self.moving):
            if self._stopped(tid):
                self.moving.discard(tid)

    def _stopped(self, tid: int) -> bool:
        try:
            stop = ptrace.wait_stop(tid, block=False)
        except ChildProcessError:
            del self.tracees[tid]
            return True
        if stop is None:
            return False
        if stop.gone:
            del self.tracees[tid]
            return True
        if stop.event == ptrace.PTRACE_EVENT_STOP:
            if stop.signal != signal.SIGTRAP:
                # It was stopped before, which is what has interrupted its call.
                self.group_stops[self.tracees[tid].pid] = stop.signal
            else:
                _hide_interruption(self.tracees[tid])
            return True
        # A signal was on its way before our interrupt: deliver it, the stop follows.
        ptrace.resume(tid, stop.signal if not stop.event else 0)
        return False

    def let_go(self, pid: int) -> None:
        """Let the stopped tasks of a process run on until `interrupt_all`."""
        freed = {tid for tid, tracee in self.tracees.items() if tracee.pid == pid} - self.moving
        for tid in freed:
            ptrace.set_options(tid, OPTIONS & ~ptrace.PTRACE_O_SUSPEND_SECCOMP)
            ptrace.resume(tid)
        self.moving |= freed
        self.on_their_way |= freed
        self.let_go_once |= freed

    def interrupt_all(self) -> None:
        """Ask every task that has not stopped to do so."""
        for tid in self.moving:
            with contextlib.suppress(ProcessLookupError):
                ptrace.interrupt(tid)
        self.on_their_way.clear()

    def detach_stopped(self) -> None:
        """Let every task that has stopped go on where it was."""
        killed = set()
        for tid in set(self.tracees) - self.moving:
            try:
                ptrace.detach(tid)
            except ProcessLookupError:
                killed.add(tid)
            del self.tracees[tid]
        _reap(killed)


def _hide_interruption(tracee: Tracee) -> None:
    """Make a call again that ended early although only our freeze has interrupted it."""
    try:
        registers = tracee.registers()
    except ValueError:
        return  # a 32-bit task, which the dump refuses
    again = registers.uninterrupted()
    if again is registers:
        return
    mask = ptrace.get_sigmask(tracee.tid)
    queued = (ptrace.peek_siginfo(tracee.tid, shared=shared) for shared in (False, True))
    for info in itertools.chain(*queued):
        if not mask >> (int.from_bytes(info[:4], "little") - 1) & 1:
            return  # a signal that is about to be taken: the program is owed its EINTR
    tracee.set_registers(again)


def _reap(waiting: set[int]) -> None:
    """Take the end of killed tasks, so that their own parents hear of it.

    The order in which they end is the kernel's: a leader after its threads, an init after its
    whole namespace. So nobody in particular is waited for.
    """
    while waiting:
        for tid in sorted(waiting):
            try:
                stop = ptrace.wait_stop(tid, block=False)
            except ChildProcessError:
                waiting.discard(tid)
                continue
            if stop is not None and stop.gone:
                waiting.discard(tid)
        if waiting:
            time.sleep(_POLL_S)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back the signals that end a command, for a step that must not be left half way."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _MomentError(Exception):
    """A task is where it cannot be stopped, but will not be for long."""

    def __init__(self, why: str, reason: str = "checkpoint-failed") -> None:
        super().__init__(why)
        self.reason = reason


@contextlib.contextmanager
def frozen(
    cgroups: Freezer, container_id: str, *, timeout_s: float = VFORK_TIMEOUT_S
) -> Iterator[Frozen]:
    """Freeze a container for the length of a ``with`` block.

    On the way out every task that still exists goes on as if nothing had happened, and a cgroup
    that was frozen before (a paused container) is frozen again.

    Raises:
        RefusedError: A task is traced by somebody else.
        CheckpointError: A task did not stop in time. The kernel lets go of it when the calling
            thread ends.
    """
    was_frozen = cgroups.frozen
    deadline = time.monotonic() + timeout_s
    patience_s = VFORK_PATIENCE_S
    while True:
        try:
            state = Frozen(patience_s)
            _try_to_freeze(cgroups, state, container_id, was_frozen=was_frozen)
            break
        except _MomentError as exc:
            if time.monotonic() > deadline:
                raise CheckpointError(f"{container_id}: {exc}", reason=exc.reason) from exc
            log.debug("%s: %s; the freeze begins anew", container_id, exc)
            patience_s *= 2  # a busy machine needs more of it
    try:
        yield state
    finally:
        with undisturbed():
            _release(cgroups, state, was_frozen=was_frozen)


def _try_to_freeze(cgroups: Freezer, state: Frozen, container_id: str, *, was_frozen: bool) -> None:
    channels = _wait_channels(cgroups)  # being frozen makes every task leave its own
    with undisturbed():
        try:
            _seize_all(cgroups, state, container_id)
            for tid, tracee in state.tracees.items():
                if tid in state.let_go_once:
                    ptrace.set_options(tid, OPTIONS)
                else:
                    tracee.wait_channel = channels.get(tid, "")
        except BaseException:
            _release(cgroups, state, was_frozen=was_frozen)
            raise


def _wait_channels(cgroups: Freezer) -> dict[int, str]:
    return dict(_channels(cgroups))


def _channels(cgroups: Freezer) -> Iterator[tuple[int, str]]:
    for pid in cgroups.pids():
        # Whoever ends meanwhile needs no hint.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for tid in proc_task.threads(pid):
                yield tid, proc_task.wait_channel(pid, tid)


def has_sleepers(cgroups: Freezer) -> bool:
    """Whether some task seems to be in a call that goes on with the time that is left of it."""
    words = ("nanosleep", "poll", "futex")
    return any(word in channel for _, channel in _channels(cgroups) for word in words)


def _release(cgroups: Freezer, state: Frozen, *, was_frozen: bool) -> None:
    try:
        if state.moving:
            # A task that has not stopped cannot be detached; running, it soon gets there.
            state.interrupt_all()
            state.detach_stopped()
            cgroups.thaw()
            _wait_until(lambda: not state.moving, state, VFORK_TIMEOUT_S)
        if was_frozen:
            # Before the rest is let go, so that no task of a paused container runs.
            cgroups.begin_freeze()
    finally:
        state.detach_stopped()
        if not was_frozen:
            cgroups.thaw()


def _wait_until(done: Callable[[], bool], state: Frozen, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while True:
        state.collect_stops()
        if done():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)


def _seize_all(cgroups: Freezer, state: Frozen, container_id: str) -> None:
    if not cgroups.frozen:
        # Waiting for the kernel's "frozen" would fail on a task in vfork; the stops below tell.
        cgroups.begin_freeze()
        deadline = time.monotonic() + FREEZER_PATIENCE_S
        while not cgroups.frozen and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    seen: set[int] = set()
    while _seize_fresh(cgroups, state, container_id, seen):
        pass
    cgroups.thaw()
    _wait_for_stops(state, container_id)
    # A fork that was under way when the freeze began may have ended since.
    while _seize_fresh(cgroups, state, container_id, seen):
        _wait_for_stops(state, container_id)


def _seize_fresh(cgroups: Freezer, state: Frozen, container_id: str, seen: set[int]) -> bool:
    """Seize every thread that has not been seized yet; whether there may be further ones."""
    fresh = [_seize_process(pid, state, container_id, seen) for pid in cgroups.pids()]
    return any(fresh)


def _seize_process(pid: int, state: Frozen, container_id: str, seen: set[int]) -> bool:
    """Seize the threads of *pid* not seized yet; whether there were any.

    One that has ended since it was listed counts: it may have made another one before.
    """
    try:
        tids = proc_task.threads(pid)
    except (FileNotFoundError, ProcessLookupError):
        return pid not in seen
    fresh = False
    for tid in tids:
        if tid in seen:
            continue
        try:
            ptrace.seize(tid, OPTIONS)
        except ProcessLookupError:
            fresh = True
            continue
        except PermissionError as exc:
            if _is_dead(pid, tid):
                continue
            _refuse_tracer(pid, tid, container_id)
            raise _MomentError(f"cannot stop task {tid}: {exc}") from exc
        seen.add(tid)
        fresh = True
        state.tracees[tid] = Tracee(tid, pid)
        state.moving.add(tid)
        with contextlib.suppress(ProcessLookupError):
            ptrace.interrupt(tid)
    return fresh


def _is_dead(pid: int, tid: int) -> bool:
    """Whether a task that cannot be seized is a zombie or gone."""
    try:
        return proc_task.stat(pid, tid).state in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _refuse_tracer(pid: int, tid: int, container_id: str) -> None:
    try:
        status = proc_task.status(pid, tid)
    except (FileNotFoundError, ProcessLookupError):
        return
    if status.tracer:
        sentence = f"is traced by task {status.tracer}, which cannot be saved; detach the tracer"
        raise RefusedError(
            f"cannot checkpoint {container_id}",
            [
                Refusal(
                    "traced-task", f"pid {status.ns_pids[-1]} ({status.fields['Name']})", sentence
                )
            ],
        )


def _wait_for_stops(state: Frozen, container_id: str) -> None:
    """Wait until all tasks have stopped.

    A parent waits for its vfork child inside the kernel, where nothing can stop it. So such a child
    is let go again, and stopped when its exec or its end has brought the parent to a stop.
    """
    patience = 0.02  # seconds until it is worth looking at why a task does not stop
    began = time.monotonic()
    while state.moving:
        if _wait_until(lambda: state.moving <= state.on_their_way, state, patience):
            state.interrupt_all()
            continue
        parents = {tid: _vfork_children(state, tid) for tid in state.moving}
        for child in itertools.chain(*parents.values()):
            state.let_go(child)
        waited = time.monotonic() - began
        if waited > state.patience_s and any(parents.values()):
            # It may wait for somebody who has stopped, such as the reader of a FIFO.
            raise _MomentError("a task keeps waiting for its vfork child", "vfork")
        if waited > STOP_TIMEOUT_S:
            reason = _unstoppable(container_id, min(state.moving), state)
            raise CheckpointError(reason, reason="task-stuck")


def _vfork_children(state: Frozen, tid: int) -> list[int]:
    """For a task that does not stop, the children that still share its memory."""
    pid = state.tracees[tid].pid
    try:
        if proc_task.stat(pid, tid).state != "D":
            return []
        offspring = proc_task.children(pid)
        return [child for child in offspring if kcmp.kcmp(pid, child, kcmp.KCMP_VM) == 0]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _unstoppable(container_id: str, tid: int, state: Frozen) -> str:
    pid = state.tracees[tid].pid
    try:
        stat = proc_task.stat(pid, tid)
        where = proc_task.wait_channel(pid, tid)
    except (FileNotFoundError, ProcessLookupError) as exc:
        raise TaskVanishedError(f"{container_id}: task {tid} ended during the freeze") from exc
    name = stat.comm.decode(errors="replace")
    return (
        f"{container_id}: task {tid} ({name}) does not stop: state {stat.state}, "
        f"waiting in {where or 'user space'}; try again when it is done"
    )
