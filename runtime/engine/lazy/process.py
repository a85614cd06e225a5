"""The pager's process, and the guard that sees to it that its end is nobody's harm.

When the last descriptor of a userfaultfd is closed, the kernel lets tasks go on with zeros. So two
processes have all of them, in one table (CLONE_FILES): the *pager*, which works, and the *guard*,
which waits for its end. The descriptor of a forked child comes to the reader, and in the same
instant into that table. When the pager fails or is killed, every task that needs a page keeps
waiting; the guard notes down why, kills the container and only then lets go.

Neither closes what it does not know: a number that one of them closed may be another descriptor of
the other's by then. So both were freed of all that came with the fork, and collect no garbage.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import logging
import os
import signal
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from formats.errors import WherryError
from runtime.detach import replace_other_fds
from runtime.engine.lazy.pager import Pager
from runtime.engine.lazy.source import FarSource, PageSource
from runtime.kernel import prctl
from runtime.kernel.clone import CLONE_FILES, clone3
from runtime.process import ProcessRef

log = logging.getLogger(__name__)

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KILL_TIMEOUT_S = 30.0
_KILL_PAUSE_S = 0.01
_PID = struct.Struct("<i")


class Failure(NamedTuple):
    """Why a container was killed.

    Attributes:
        reason: A stable code.
        message: For people.
    """

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a pager has to know of the container that it works for.

    Attributes:
        log_path: Where it writes its log.
        settle: Called before the fork, to end threads and connections.
        fds: What reading the image needs open.
        started: Told who does it.
        record: Notes down why the container is killed.
        kill: Kills all of it; called again until nobody is left.
        alive: Whether somebody is.
    """

    log_path: Path
    settle: Callable[[], None]
    fds: Sequence[int]
    started: Callable[[PagerProcesses], None]
    record: Callable[[Failure], None]
    kill: Callable[[], None]
    alive: Callable[[], bool]


class PagerProcesses(NamedTuple):
    """Who fills the memory of a container.

    Attributes:
        pager: Ends when all is filled.
        guard: Ends after it.
    """

    pager: ProcessRef
    guard: ProcessRef


def start_pager(
    source: PageSource, spaces: Sequence[tuple[int, int]], around: Surroundings
) -> PagerProcesses:
    """Fork the processes that fill address spaces.

    Args:
        source: Where contents are; of use in the pager alone from now on.
        spaces: (userfaultfd, object id) of each, registered. The descriptors are closed here: that
            they exist in the guard and the pager alone is what its work relies on.
        around: Of the container.

    Raises:
        OSError: There is no memory or id for a process.
    """
    around.settle()
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    told = (*_IGNORED, signal.SIGCHLD)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, told)
    guard = os.fork()
    if guard == 0:
        try:
            os.close(ours)
            _guard(source, spaces, around, theirs)
        finally:
            os._exit(1)
    try:
        os.close(theirs)
        for fd, _ in spaces:
            os.close(fd)
        raw = os.read(ours, _PID.size)
    finally:
        os.close(ours)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if len(raw) < _PID.size:
        raise OSError(errno.ECHILD, "the pager has not started")
    (pager,) = _PID.unpack(raw)
    processes = PagerProcesses(_reference(pager), _reference(guard))
    around.started(processes)
    return processes


def _reference(pid: int) -> ProcessRef:
    try:
        return ProcessRef.of(pid)
    except ProcessLookupError:  # there was little to do
        return ProcessRef(pid, -1)


def _guard(
    source: PageSource, spaces: Sequence[tuple[int, int]], around: Surroundings, channel: int
) -> None:
    _leave_the_command("wherry-guard")
    notes = os.memfd_create("wherry-pager", os.MFD_CLOEXEC)
    kept = {channel, notes, *(fd for fd, _ in spaces), *source.kept_fds()}
    logging.root.handlers.clear()
    replace_other_fds(kept, around.log_path)
    pid, _ = clone3(CLONE_FILES)
    if pid == 0:
        try:
            _page(source, spaces, notes)
        finally:
            os._exit(1)
    os.write(channel, _PID.pack(pid))
    _, status = os.waitpid(pid, 0)
    if status != 0:
        failure = _failure(status, notes)
        _close_what_it_had({notes})
        _give_up(around, source, failure)
    os._exit(0)


def _page(source: PageSource, spaces: Sequence[tuple[int, int]], notes: int) -> None:
    prctl.set_name("wherry-pager")
    try:
        pager = Pager(source, spaces)
        pager.run()
        if isinstance(source, FarSource):
            source.complete(pager.faults, pager.filled)
        source.close()
    except BaseException as exc:
        log.error("memory cannot be filled: %s", exc, exc_info=not isinstance(exc, WherryError))
        reason = exc.reason if isinstance(exc, WherryError) else "memory-lost"
        os.write(notes, json.dumps([reason, str(exc) or type(exc).__name__]).encode())
        os._exit(1)
    os._exit(0)


def _leave_the_command(name: str) -> None:
    """Nothing that is meant for the command, or happens to it, reaches us."""
    gc.disable()
    gc.freeze()
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for signum in _IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_IGNORED, signal.SIGCHLD))
    os.chdir("/")
    prctl.set_name(name)


def _failure(status: int, notes: int) -> Failure:
    """What the pager left behind, or what its end says."""
    written = os.pread(notes, 1 << 16, 0)
    if written:
        reason, message = json.loads(written)
        return Failure(reason, f"its memory cannot be filled: {message}")
    how = os.waitstatus_to_exitcode(status)
    end = f"was killed by signal {-how}" if how < 0 else f"exited with {how}"
    return Failure("pager-killed", f"its memory cannot be filled: the pager {end}")


def _close_what_it_had(kept: set[int]) -> None:
    """Close what a dead pager had opened, but what tasks wait for: it may have been a lock."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            if int(name) > 2 and int(name) not in kept and not _is_waited_for(name):
                os.close(int(name))


def _is_waited_for(fd: str) -> bool:
    return "userfaultfd" in os.readlink(f"/proc/self/fd/{fd}")


def _give_up(around: Surroundings, source: PageSource, failure: Failure) -> None:
    """Kill the container. Its tasks wait for pages until they are gone."""
    log.error("the container is killed: %s [%s]", failure.message, failure.reason)
    for note in (around.record, partial(_tell, source)):
        try:
            note(failure)
        except Exception:
            log.exception("the reason is not on record")
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            around.kill()
            if not around.alive():
                return
        except Exception:
            log.exception("the container cannot be killed")
        time.sleep(_KILL_PAUSE_S)
    # To let go would let it go on with zeros; who stays here does no harm.
    log.error("the container does not end, though killed")
    signal.pause()


def _tell(source: PageSource, failure: Failure) -> None:
    if isinstance(source, FarSource):
        source.lost(failure.message)
