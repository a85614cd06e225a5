"""What the probes share: a child to try things in, and a child to try things on."""

from __future__ import annotations

import contextlib
import os
import platform
import select
import signal
from collections.abc import Callable, Iterator
from typing import Final

from runtime.kernel.features import UnavailableError
from runtime.kernel.libc import syscall

# Numbers of calls older than the common table (which starts at 424), <asm/unistd.h>.
_NUMBERS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "mremap": 25,
        "ptrace": 101,
        "unshare": 272,
        "get_robust_list": 274,
        "prlimit64": 302,
        "name_to_handle_at": 303,
        "open_by_handle_at": 304,
        "process_vm_readv": 310,
        "kcmp": 312,
        "userfaultfd": 323,
    },
    "aarch64": {
        "mremap": 216,
        "ptrace": 117,
        "unshare": 97,
        "get_robust_list": 100,
        "prlimit64": 261,
        "name_to_handle_at": 264,
        "open_by_handle_at": 265,
        "process_vm_readv": 270,
        "kcmp": 272,
        "userfaultfd": 282,
    },
}
_COMMON: Final = {
    "open_tree": 428,
    "clone3": 435,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}
_CHILD_TIMEOUT_S: Final = 5.0

# <linux/ptrace.h>
PTRACE_DETACH = 17
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207


def number_of(call: str) -> int:
    """The number of a system call on this architecture.

    Raises:
        UnavailableError: wherry knows no number for this architecture.
    """
    if call in _COMMON:
        return _COMMON[call]
    machine = platform.machine()
    try:
        return _NUMBERS[machine][call]
    except KeyError:
        raise UnavailableError(f"the number of {call} is not known on {machine}") from None


def raw(call: str, *args: int) -> int:
    """Make the system call *call* by number.

    Raises:
        OSError: The kernel refused.
        UnavailableError: Its number is not known here.
    """
    return syscall(call, number_of(call), *args)


def in_child(attempt: Callable[[], str]) -> str:
    """Run *attempt* in a forked child, whose namespaces and credentials it may change.

    Returns:
        What *attempt* returned.

    Raises:
        UnavailableError: It raised, with its reason, or did not answer in time.
    """
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = f"+{attempt()}"
        except OSError as exc:
            answer = f"-{exc.strerror or exc}"
        except BaseException as exc:
            answer = f"-{exc}"
        os.write(send, answer.encode()[:2000])
        os._exit(0)
    os.close(send)
    try:
        answer = ""
        if select.select([receive], [], [], _CHILD_TIMEOUT_S)[0]:
            answer = os.read(receive, 2000).decode()
    finally:
        os.close(receive)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if answer.startswith("+"):
        return answer[1:]
    raise UnavailableError(answer[1:] or "the probe did not answer")


@contextlib.contextmanager
def subject() -> Iterator[int]:
    """A child that does nothing, for probes that look at another process."""
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextlib.contextmanager
def seized_subject(options: int = 0) -> Iterator[int]:
    """A child under ptrace, in an event stop.

    Args:
        options: ``PTRACE_O_*`` flags for the seizure.

    Raises:
        OSError: The kernel refused the seizure.
    """
    with subject() as pid:
        raw("ptrace", PTRACE_SEIZE, pid, 0, options)
        raw("ptrace", PTRACE_INTERRUPT, pid, 0, 0)
        os.waitpid(pid, 0)
        yield pid
        raw("ptrace", PTRACE_DETACH, pid, 0, 0)
