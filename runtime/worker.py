"""Long operations on a container in a process of their own: nothing can leave them half done.

A checkpoint stops tasks and runs system calls inside them; being killed in the middle of that would
hurt the workload. So it happens in a *worker*: a child in a session of its own, which neither a
Ctrl-C on the terminal nor the death of the command reaches directly. The command asks it to end
with SIGTERM, and the kernel does so when the command itself was killed; either way the worker
unwinds in order, and the workload goes on.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from runtime.error_report import error_from_json, error_to_json
from runtime.errors import ContainerError
from runtime.interrupt import Interrupted, raise_on_signals
from runtime.kernel import prctl
from runtime.line_socket import LineSocket

Progress = Callable[[str, int, int], None]
WorkerBody = Callable[[Progress], dict[str, Any]]

_PROGRESS_INTERVAL_S = 0.1


def run_in_worker(body: WorkerBody, progress: Progress) -> dict[str, Any]:
    """Run *body* in a worker and wait for it.

    Args:
        body: Gets a function to report progress with, and returns a JSON object.
        progress: Called here with what *body* reports, at most ten times a second and stage.

    Returns:
        What *body* returned.

    Raises:
        WherryError, OSError: The failure of *body*.
        Interrupted: We were told to end; the worker has unwound and ended.
    """
    ours, theirs = (LineSocket(end) for end in socket.socketpair())
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()
    command = os.getpid()
    # Until the worker is in our care, nobody may interrupt us.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _run(body, theirs, command, before)
        finally:
            os._exit(1)
    gc.unfreeze()
    theirs.close()
    with ours:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return _converse(ours, progress)
        except BaseException:
            # Also when showing the progress failed: nobody waits for the result any more.
            os.kill(pid, signal.SIGTERM)
            raise
        finally:
            _wait(pid)


def _run(body: WorkerBody, line: LineSocket, command: int, mask: Iterable[int]) -> None:
    os.setsid()
    gc.disable()  # it will be over before its garbage amounts to anything
    raise_on_signals(signal.SIGTERM, signal.SIGHUP)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl.set_parent_death_signal(signal.SIGTERM)
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if os.getppid() != command:
            raise Interrupted(signal.SIGTERM)  # the command died before we asked to be told
        line.send({"result": body(_reporter(line))})
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


def rarely(progress: Progress) -> Progress:
    """Call *progress* at most ten times a second and stage, and at the end of each."""
    last: tuple[str, float] = ("", 0.0)

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if stage == last[0] and done != total and now - last[1] < _PROGRESS_INTERVAL_S:
            return
        last = (stage, now)
        progress(stage, done, total)

    return report


def _reporter(line: LineSocket) -> Progress:
    def report(stage: str, done: int, total: int) -> None:
        try:
            line.send({"progress": [stage, done, total]})
        except OSError:
            pass  # the command is gone; the signal that ends us is on its way

    return rarely(report)


def _converse(line: LineSocket, progress: Progress) -> dict[str, Any]:
    while True:
        message = line.receive()
        if message is None:
            raise ContainerError("the worker was killed", reason="worker-killed")
        if "error" in message:
            raise error_from_json(message["error"])
        if "result" in message:
            result: dict[str, Any] = message["result"]
            return result
        progress(*message["progress"])


def _wait(pid: int) -> None:
    """Wait for the worker's end; a further signal must not keep us from it."""
    while True:
        try:
            os.waitpid(pid, 0)
            return
        except Interrupted:
            os.kill(pid, signal.SIGTERM)
