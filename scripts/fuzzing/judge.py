"""A child process for each mutant, and how it ended: an error in words, the truth, or a bug."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from formats.errors import WherryError

MEMORY_LIMIT = 256 << 20  # bytes that the whole process may have resident
ADDRESS_LIMIT = 3 << 30  # bytes; only to protect the machine
TIME_LIMIT_S = 30.0
_REFUSED, _READ, _BUG = 0, 1, 2


@dataclass(frozen=True)
class Verdict:
    """How one mutant ended.

    Attributes:
        kind: ``refused`` (an error in words), ``read``, or what must not be: ``wrong`` (other
            bytes than the right ones), ``crash``, ``hang``, ``memory``.
        said: The error's sentence, or the traceback.
        peak_bytes: The largest resident size.
    """

    kind: str
    said: str
    peak_bytes: int

    @property
    def fine(self) -> bool:
        """Whether it is as it has to be."""
        return self.kind in ("refused", "read")


def judge(work: Callable[[], str | None]) -> Verdict:
    """Do *work* in a child process.

    Args:
        work: Reads the mutant. Raises WherryError to refuse it; returns None when all it read is
            right, else what is wrong.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        status = _BUG
        try:
            status = _work(work, writer)
        finally:
            os._exit(status)
    os.close(writer)
    process = os.pidfd_open(pid)
    try:
        with open(reader, "rb") as pipe:
            ended = bool(select.select([process], [], [], TIME_LIMIT_S)[0])
            if not ended:
                signal.pidfd_send_signal(process, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            said = pipe.read().decode(errors="replace") if ended else "no end"
    finally:
        os.close(process)
    peak = usage.ru_maxrss << 10
    code = os.waitstatus_to_exitcode(status)
    if not ended:
        return Verdict("hang", said, peak)
    if code not in (_REFUSED, _READ):
        return Verdict("crash", f"exit {code}: {said}", peak)
    if peak > MEMORY_LIMIT:
        return Verdict("memory", f"{peak >> 20} MiB: {said}", peak)
    if code == _READ and said:
        return Verdict("wrong", said, peak)
    return Verdict("read" if code == _READ else "refused", said, peak)


def _work(work: Callable[[], str | None], writer: int) -> int:
    gc.freeze()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_LIMIT, ADDRESS_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    try:
        said, status = work() or "", _READ
    except WherryError as exc:
        said, status = f"[{exc.reason}] {exc}", _REFUSED
        if len(str(exc)) < 12:
            said, status = f"an error without a sentence: {exc!r}", _BUG
    except BaseException:
        said, status = traceback.format_exc(), _BUG
    with contextlib.suppress(OSError):
        os.write(writer, said.encode(errors="backslashreplace")[-4000:])
    return status
