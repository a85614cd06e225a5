"""Forking a process that outlives its command, and hearing from it how it went."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from runtime.error_report import error_from_json, error_to_json
from runtime.errors import ContainerError
from runtime.interrupt import Interrupted, raise_on_signals
from runtime.kernel import prctl
from runtime.line_socket import LineSocket, Message
from runtime.worker import Progress, rarely

_TOLD_TO_END = (signal.SIGINT, signal.SIGTERM)


class Reporter:
    """How a detached process speaks to its command, until it is ready."""

    def __init__(self, line: LineSocket) -> None:
        self._line = line
        self.progress = rarely(self._send_progress)

    def ready(self, message: Message) -> None:
        """Say that all is there. From now on nobody listens, and no signal raises Interrupted."""
        for signum in (*_TOLD_TO_END, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        try:
            self._line.send(message)
        except OSError:
            pass  # the command died; what it had asked for is there all the same
        self._line.close()

    def _send_progress(self, stage: str, done: int, total: int) -> None:
        try:
            self._line.send({"progress": [stage, done, total]})
        except OSError:
            pass  # the command died


DetachedBody = Callable[[Reporter], None]
"""Runs in the detached process; calls ``ready`` once."""


def fork_detached(
    body: DetachedBody,
    *,
    meanwhile: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> Message:
    """Run *body* in a process of its own session that is not our child.

    The process is a child subreaper, so that what its descendants leave behind comes to it. SIGINT
    and SIGTERM raise Interrupted in *body* until it is ready. When we are interrupted while we
    wait for that, the process is told so too, and has ended when this function raises.

    Args:
        body: What the process does.
        meanwhile: Called in this process before it waits.
        progress: Called in this process with what *body* reports.

    Returns:
        What *body* gave to ``Reporter.ready``.

    Raises:
        WherryError, OSError: The failure of *body*, before it was ready.
        Interrupted: We were told to end.
    """
    ours, theirs = (LineSocket(end) for end in socket.socketpair())
    sys.stdout.flush()
    sys.stderr.flush()
    # Without this, the first collection in the child would write to, and so copy, every page.
    gc.freeze()
    # Until we know whom to tell, nobody may interrupt us.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD_TO_END)
    middle = os.fork()
    if middle == 0:
        # The process in the middle ends at once; so ours is nobody's zombie later.
        try:
            if os.fork() > 0:
                os._exit(0)
            ours.close()
            _run(body, theirs, before)
        finally:
            os._exit(1)
    gc.unfreeze()
    theirs.close()
    os.waitpid(middle, 0)
    with ours:
        first = ours.receive()
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if first is None:
                raise ContainerError("the monitor ended before it had begun")
            if meanwhile is not None:
                meanwhile()
            return _await_ready(ours, progress)
        except BaseException:
            if first is not None:
                _send_term(first["pid"])
            # The end of the conversation is the end of the process: it has tidied up then.
            while ours.receive() is not None:
                pass
            raise


def _run(body: DetachedBody, line: LineSocket, mask: Iterable[int]) -> None:
    """The detached process, from its first instruction to its last."""
    status = 1
    try:
        os.setsid()
        prctl.set_child_subreaper(True)
        raise_on_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        line.send({"pid": os.getpid()})
        body(Reporter(line))
        status = 0
    except Interrupted as exc:
        status = 128 + exc.signum
    except BaseException as exc:
        try:
            line.send({"error": error_to_json(exc)})
        except OSError:
            pass  # nobody listens any more
    finally:
        os._exit(status)


def _await_ready(line: LineSocket, progress: Progress | None) -> Message:
    while True:
        message = line.receive()
        if message is None:
            raise ContainerError("the monitor ended before the container was ready")
        if "error" in message:
            raise error_from_json(message["error"])
        if "progress" not in message:
            return message
        if progress is not None:
            progress(*message["progress"])


def _send_term(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass


def replace_other_fds(kept: Iterable[int], log_path: Path) -> None:
    """Let go of every descriptor that came with the fork: each becomes /dev/null.

    They are replaced, not closed: an object of the interpreter that still owns a number would
    close, later, whatever got that number by then. The log goes to *log_path*, which is only
    made when something is written.

    Args:
        kept: The numbers to leave alone.
        log_path: Where the log of the detached process goes.
    """
    keep = set(kept)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:
        if number not in keep and number != null and _is_open(number):
            os.dup2(null, number, inheritable=number <= 2)
    _log_to(log_path)


def _log_to(path: Path) -> None:
    """Send the log to a file of our own, unless the command line has named one."""
    import logging

    if any(isinstance(handler, logging.FileHandler) for handler in logging.root.handlers):
        return
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
    logging.root.handlers[:] = [handler]


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
