"""What waits in a pseudo-terminal: taken out, and put in again.

The kernel gives nobody a look at it: what is read is gone. So while the container is frozen each
byte is read, and then inserted again (TIOCSTI) with modes under which it becomes exactly what it
was: no echo, no signals, every special character quoted. A restore inserts the same bytes into a
new pseudo-terminal. Only for the length of a few system calls does the container's own terminal
lack something.

In canonical mode complete lines are read first, one each time. Only then, with canonical mode off,
can what was typed of the next line be read; switching it off would forget where lines end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass

from formats.records.terminal import TerminalLine, TerminalQueue
from runtime.kernel import tty
from runtime.kernel.tty import Termios

_NO_CHARACTERS = bytes(19)  # NCCS of the kernel
_LNEXT, _EOF, _START, _STOP = 0x16, 0x04, 0x11, 0x13
_NEWLINE = 0x0A
_READ_SIZE = 1 << 16
# How much fits in front of a line discipline depends on how it is cut; this makes best use of it.
_STEP = 1000
_PATIENCE_S, _LAST_MOMENT_S = 10.0, 0.05
_NOT_STOPPED, BY_BYTE, BY_CALL = "", "byte", "call"
STOPS = frozenset({_NOT_STOPPED, BY_BYTE, BY_CALL})


@dataclass(frozen=True, slots=True)
class Ends:
    """Both ends of a pseudo-terminal, and its settings while nobody plays with them.

    Attributes:
        master: Descriptor of ours.
        slave: Descriptor of ours, to be read and written.
        modes: The slave's.
        locks: Modes that cannot be changed.
        packet: Whether the master is in packet mode.
    """

    master: int
    slave: int
    modes: Termios
    locks: bytes = tty.NO_LOCKS
    packet: bool = False


def take(ends: Ends) -> TerminalQueue:
    """Empty a pseudo-terminal; it is left with modes of ours, for `put` to end.

    Raises:
        OSError: The kernel refused a step. What had been read is in the terminal again.
    """
    taken = _Taking(ends)
    try:
        taken.all()
    except BaseException:
        put(ends, taken.queue())
        raise
    return taken.queue()


def put(ends: Ends, queue: TerminalQueue) -> int:
    """Fill a pseudo-terminal that is empty, and give it its settings.

    Returns:
        How many bytes found no room, of more than twice what a line discipline holds.

    Raises:
        OSError: The kernel refused a step.
    """
    lost = 0
    events = queue.packet_status
    _set_locks(ends, tty.NO_LOCKS)
    if ends.packet:
        tty.set_packet_mode(ends.master, True)
        _flush_events(ends, events)
    late = b""
    if ends.modes.canonical:
        late = _insert_lines(ends, queue)
    else:
        tty.set_termios(ends.slave, _quiet(ends, stays=queue.input))
        if len(queue.input) <= tty.QUEUE_SIZE:
            tty.insert(ends.slave, queue.input)
        else:
            lost += _write(ends.master, queue.input, ends.slave)
    if len(queue.output) <= tty.QUEUE_SIZE:
        tty.insert(ends.master, queue.output)
    else:
        _started(ends, queue.stopped)
        tty.set_termios(ends.slave, _quiet(ends, canonical=ends.modes.canonical, out=0))
        lost += _write(ends.slave, queue.output, ends.master)
    _stop(ends, queue.stopped)
    tty.set_termios(ends.slave, ends.modes)
    if late:
        lost += _write(ends.master, late, ends.slave)
    if queue.master_stopped:
        tty.stop_output(ends.master)
    if ends.packet:
        _flow_events(ends, queue.stopped, events)
    _set_locks(ends, ends.locks)
    return lost


# Taking


class _Taking:
    """One terminal being emptied; what has been taken so far."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self._lines: list[TerminalLine] = []
        self._input = b""
        self._output = b""
        self._stopped = _NOT_STOPPED
        self._master_stopped = False
        self._status = 0

    def queue(self) -> TerminalQueue:
        return TerminalQueue(
            lines=tuple(self._lines),
            input=self._input,
            output=self._output,
            stopped=self._stopped,
            master_stopped=self._master_stopped,
            packet_status=self._status,
        )

    def all(self) -> None:
        ends = self._ends
        if ends.packet:
            if _events(ends.master) & select.POLLPRI:
                self._status = os.read(ends.master, 1)[0]
            tty.set_packet_mode(ends.master, False)
        _set_locks(ends, tty.NO_LOCKS)
        self._take_output()
        self._stopped = self._how_stopped()
        if ends.modes.canonical:
            self._take_lines()
        tty.set_termios(ends.slave, _quiet(ends).with_cc(VMIN=0))
        while data := os.read(ends.slave, _READ_SIZE):
            self._input += data
        self._take_output()  # what the last of the input was echoed as
        self._master_stopped = not _events(ends.master) & select.POLLOUT

    def _take_output(self) -> None:
        while _readable(self._ends.master) and _events(self._ends.master) & select.POLLIN:
            self._output += os.read(self._ends.master, _READ_SIZE)

    def _how_stopped(self) -> str:
        """Room in an empty terminal is not offered only when it is stopped."""
        slave = self._ends.slave
        if _events(slave) & select.POLLOUT:
            return _NOT_STOPPED
        if not _readable(self._ends.master):
            return _NOT_STOPPED  # it may be full as well
        tty.start_output(slave)
        if not _events(slave) & select.POLLOUT:
            return BY_BYTE
        self._take_output()  # echoes that had waited
        tty.stop_output(slave)
        return BY_CALL

    def _take_lines(self) -> None:
        modes = self._ends.modes
        delimiters = {_NEWLINE, modes.cc[termios.VEOL], modes.cc[termios.VEOL2]} - {tty.DISABLED}
        while _events(self._ends.slave) & select.POLLIN:
            data = os.read(self._ends.slave, _READ_SIZE)
            self._lines.append(TerminalLine(data, bool(data) and data[-1] in delimiters))


def _events(fd: int) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLOUT | select.POLLPRI)
    return dict(poll.poll(0)).get(fd, 0)


def _readable(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY


# Putting


def _quiet(
    ends: Ends, *, canonical: bool = False, stays: bytes = b"", out: int | None = None
) -> Termios:
    """Modes under which input passes as it is, and a stopped terminal stays stopped.

    What the master is told of in packet mode, flow control and EXTPROC, is left as it is.

    Args:
        ends: The terminal.
        canonical: Make lines; every special character can be quoted.
        stays: What is going to be inserted without quotes.
        out: Output modes, if they shall be others.
    """
    modes = ends.modes
    quiet = modes._replace(
        iflag=modes.iflag & termios.IXON,
        lflag=modes.lflag & tty.EXTPROC | (termios.ICANON | termios.IEXTEN if canonical else 0),
        oflag=modes.oflag if out is None else out,
        cc=_NO_CHARACTERS,
    ).with_cc(VMIN=1)
    if canonical:
        quiet = quiet.with_cc(VLNEXT=_LNEXT, VEOF=_EOF)
    flow = _flow_characters(modes)
    if ends.packet and not any(c in stays for c in flow):
        quiet = quiet.with_cc(VSTART=flow[0], VSTOP=flow[1])
    return quiet


def _flow_characters(modes: Termios) -> tuple[int, int]:
    return modes.cc[termios.VSTART], modes.cc[termios.VSTOP]


def _quoted(ends: Ends, data: bytes, *special: int) -> bytes:
    quote = {_LNEXT, _EOF, _NEWLINE, *special, *_flow_characters(ends.modes)}
    return b"".join(bytes([_LNEXT, c]) if c in quote else bytes([c]) for c in data)


def _insert_lines(ends: Ends, queue: TerminalQueue) -> bytes:
    """Returns what does not fit, as it was typed."""
    room = tty.QUEUE_SIZE
    quiet = _quiet(ends, canonical=True)
    tty.set_termios(ends.slave, quiet)
    for number, line in enumerate(queue.lines):
        room -= len(line.data) + (not line.delimited)
        if room < 0:
            late = b"".join(later.data for later in queue.lines[number:])
            return late + queue.input
        if not line.delimited:
            tty.insert(ends.slave, _quoted(ends, line.data) + bytes([_EOF]))
        elif line.data[-1] == _NEWLINE:
            tty.insert(ends.slave, _quoted(ends, line.data[:-1]) + b"\n")
        else:
            delimiter = line.data[-1]
            tty.set_termios(ends.slave, quiet.with_cc(VEOL=delimiter))
            tty.insert(ends.slave, _quoted(ends, line.data[:-1], delimiter) + bytes([delimiter]))
            tty.set_termios(ends.slave, quiet)
    tty.insert(ends.slave, _quoted(ends, queue.input[:room]))
    return queue.input[room:]


def _write(fd: int, data: bytes, other: int) -> int:
    """Write more than a line discipline holds: the rest waits in front of it.

    Never waits for a reader, for nobody reads now, but for the kernel's own worker that carries
    bytes to the *other* end: until that is full. Returns the bytes that found no room.
    """
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        left = memoryview(data)
        give_up = after_full = time.monotonic() + _PATIENCE_S
        while left and time.monotonic() < min(give_up, after_full):
            try:
                left = left[os.write(fd, left[:_STEP]) :]
                give_up = after_full = time.monotonic() + _PATIENCE_S
            except BlockingIOError:
                if tty.unread(other) >= tty.QUEUE_SIZE:
                    after_full = min(after_full, time.monotonic() + _LAST_MOMENT_S)
                time.sleep(0.001)
        return len(left)
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


# Flow control


def _type(ends: Ends, stop: bool) -> None:
    """Type a flow-control character: the program's own, so that flow control stays as it is."""
    start_byte, stop_byte = _flow_characters(ends.modes)
    start_byte, stop_byte = start_byte or _START, stop_byte or _STOP
    flow = _quiet(ends).with_cc(VSTART=start_byte, VSTOP=stop_byte)
    tty.set_termios(
        ends.slave, flow._replace(iflag=termios.IXON, lflag=_unchanged_lines(ends.modes))
    )
    tty.insert(ends.slave, bytes([stop_byte if stop else start_byte]))


def _unchanged_lines(modes: Termios) -> int:
    """Local modes that must not change while something waits: line ends would be forgotten."""
    return modes.lflag & (termios.ICANON | tty.EXTPROC)


def _stop(ends: Ends, how: str) -> None:
    if how == BY_CALL:
        tty.stop_output(ends.slave)
    elif how == BY_BYTE:
        _type(ends, stop=True)


def _started(ends: Ends, how: str) -> None:
    if how == BY_CALL:
        tty.start_output(ends.slave)
    elif how == BY_BYTE:
        _type(ends, stop=False)


# Packet mode


def _flush_events(ends: Ends, status: int) -> None:
    """Have the master told what it has yet to read; while nothing waits that would be lost."""
    if status & tty.PKT_FLUSHREAD:
        tty.flush_input(ends.slave)
    if status & tty.PKT_FLUSHWRITE:
        tty.flush_output(ends.slave)
    if status & tty.PKT_IOCTL and not ends.modes.lflag & tty.EXTPROC:
        tty.set_termios(ends.slave, ends.modes._replace(lflag=tty.EXTPROC))
        tty.set_termios(ends.slave, ends.modes)


def _flow_events(ends: Ends, stopped: str, status: int) -> None:
    modes = ends.modes
    if status & tty.PKT_STOP:
        _started(ends, stopped)
        _stop(ends, stopped)
    elif status & tty.PKT_START:
        tty.stop_output(ends.slave)
        tty.start_output(ends.slave)
    if status & tty.PKT_DOSTOP:
        tty.set_termios(ends.slave, modes.with_cc(VSTOP=tty.DISABLED))
    elif status & tty.PKT_NOSTOP:
        flow = modes._replace(iflag=modes.iflag | termios.IXON)
        tty.set_termios(ends.slave, flow.with_cc(VSTART=_START, VSTOP=_STOP))
    if status & (tty.PKT_STOP | tty.PKT_DOSTOP | tty.PKT_NOSTOP | tty.PKT_IOCTL):
        tty.set_termios(ends.slave, modes)


def _set_locks(ends: Ends, mask: bytes) -> None:
    if ends.locks != tty.NO_LOCKS:
        tty.set_locks(ends.slave, mask)


# The other end


@contextlib.contextmanager
def slave_of(master: int) -> Iterator[int]:
    """A descriptor for the slave, whose opening and closing nobody will have noticed.

    A master learns when its slave was closed by the last who had it, and forgets when it is opened
    again. Closing does not tell it when the slave is out of order, which a refused open makes it
    until the next one; a lock has it refused.
    """
    closed_before = tty.is_closed(master)
    locked = tty.is_locked(master)
    if locked:
        tty.set_locked(master, False)
    try:
        slave = tty.open_peer(master, os.O_RDWR)
        try:
            yield slave
        finally:
            os.close(slave)
            if not closed_before and tty.is_closed(master):
                _close_unnoticed(master)
    finally:
        if locked:
            tty.set_locked(master, True)


def _close_unnoticed(master: int) -> None:
    slave = tty.open_peer(master, os.O_RDWR)
    try:
        tty.set_locked(master, True)
        try:
            os.close(tty.open_peer(master, os.O_RDWR))
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
        finally:
            tty.set_locked(master, False)
    finally:
        os.close(slave)
