"""Standing in for a container's program: its signals, its terminal, its exit status."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from runtime.line_socket import receive_with_fds
from runtime.signalling import send_signal

if TYPE_CHECKING:
    from runtime.process import ProcessRef

# Those about ourselves, and those that cannot be caught.
_NOT_FORWARDED = {
    signal.SIGCHLD,
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGURG,
    signal.SIGPIPE,
    signal.SIGWINCH,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGALRM,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGABRT,
    signal.SIGSYS,
    signal.SIGTRAP,
}

# Without a handler, these end a process that is no init of a pid namespace.
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}


@contextlib.contextmanager
def forwarded_signals(process: ProcessRef, *, like_a_command: bool = False) -> Iterator[None]:
    """Hand the signals that we get on to the program.

    Args:
        process: The program.
        like_a_command: A program that is its pid namespace's init is immune to signals without a
            handler. With this set it ends all the same, as it would outside of a container.
    """

    def forward(signum: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            if like_a_command and signum in _ENDING and not _has_handler(process.pid, signum):
                _ended_by.append(signum)
                signum = signal.SIGKILL
            send_signal(process, signum)

    previous = {}
    for signum in signal.valid_signals() - _NOT_FORWARDED:
        with contextlib.suppress(OSError):  # 32 and 33 belong to the C library
            previous[signum] = signal.signal(signum, forward)
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


_ended_by: list[int] = []


def ended_by() -> int | None:
    """The signal that we turned into a kill, if there was one."""
    return _ended_by[-1] if _ended_by else None


def _has_handler(pid: int, signum: int) -> bool:
    """Whether a process catches or ignores a signal; man 5 proc_pid_status."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    fields = dict(line.split(":", 1) for line in status.splitlines())
    mask = int(fields["SigCgt"], 16) | int(fields["SigIgn"], 16)
    return bool(mask >> (signum - 1) & 1)


class TerminalRelay:
    """Between our own terminal and the one inside.

    ``console`` is the socket to hand to the runtime. ``run`` relays until the program has ended.
    """

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._master = -1

    @property
    def console(self) -> int:
        """The descriptor of the socket that the terminal's master has to be sent to."""
        return self._theirs.fileno()

    def receive_master(self) -> None:
        """Take the master that the runtime has sent, and give it the size of our terminal.

        Raises:
            OSError: None was sent.
        """
        self._theirs.close()
        _data, fds = receive_with_fds(self._ours, 4096)
        if not fds:
            raise OSError("the runtime sent no terminal")
        self._master = fds[0]
        self._resize()

    def run(self, wait: Callable[[], int]) -> int:
        """Relay until *wait*, in a thread of its own, has the wait status; returns that."""
        import threading

        statuses: list[int | BaseException] = []
        done_reader, done_writer = os.pipe()

        def wait_for_end() -> None:
            try:
                statuses.append(wait())
            except BaseException as exc:
                statuses.append(exc)
            finally:
                os.close(done_writer)

        thread = threading.Thread(target=wait_for_end, daemon=True)
        with self._raw_terminal():
            thread.start()
            self._copy(done_reader)
        thread.join()
        os.close(done_reader)
        status = statuses[0]
        if isinstance(status, BaseException):
            raise status
        return status

    def close(self) -> None:
        """Let go of both ends."""
        self._ours.close()
        self._theirs.close()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _copy(self, done: int) -> None:
        poll = select.poll()
        for fd in (0, self._master, done):
            poll.register(fd, select.POLLIN)
        ended = False
        while True:
            # Once the program has ended, only what is still in the terminal is fetched.
            events = dict(poll.poll(0 if ended else None))
            if self._master in events and not self._from_inside():
                poll.unregister(self._master)
                if ended:
                    return
            elif ended:
                return
            if 0 in events and not self._from_outside():
                poll.unregister(0)
            if done in events:
                ended = True
                poll.unregister(done)

    def _from_inside(self) -> bool:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other end open any more
            return False
        _write_all(1, data)
        return bool(data)

    def _from_outside(self) -> bool:
        data = os.read(0, 65536)
        if data:
            _write_all(self._master, data)
        else:
            _write_all(self._master, b"\x04")  # what a terminal means by the end of input
        return bool(data)

    @contextlib.contextmanager
    def _raw_terminal(self) -> Iterator[None]:
        import termios
        import tty

        if not sys.stdin.isatty():
            yield
            return
        before = termios.tcgetattr(0)
        previous = signal.signal(signal.SIGWINCH, lambda _signum, _frame: self._resize())
        try:
            tty.setraw(0)
            yield
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
            signal.signal(signal.SIGWINCH, previous)

    def _resize(self) -> None:
        import fcntl
        import termios

        for fd in (0, 1, 2):
            if os.isatty(fd):
                size = fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
                return


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
