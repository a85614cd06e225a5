"""tty(4) ioctls: what a terminal is set to, and what a pseudo-terminal's master knows of both ends.

A master answers for its slave: termios, window size, session and foreground group of the pair are
the slave's, whichever end is asked. Packet mode and the lock belong to the master; exclusive mode,
line discipline and what waits to be read to each end by itself.

Source: man 2 ioctl_tty; include/uapi/asm-generic/{ioctls,termbits}.h; drivers/tty of the kernel.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import termios
from typing import NamedTuple, Self

# include/uapi/asm-generic/ioctls.h
TCGETS2 = 0x802C542A
TCSETS2 = 0x402C542B
TIOCSCTTY = 0x540E
TIOCSPGRP = 0x5410
TIOCPKT = 0x5420
TIOCNOTTY = 0x5422
TIOCGETD = 0x5424
TIOCVHANGUP = 0x5437
TIOCGSID = 0x5429
TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431
TIOCGDEV = 0x80045432
TIOCGPKT = 0x80045438
TIOCGPTLCK = 0x80045439
TIOCGEXCL = 0x80045440
TIOCGPTPEER = 0x5441  # Linux 4.13
TIOCGLCKTRMIOS = 0x5456
TIOCSLCKTRMIOS = 0x5457

N_TTY = 0  # include/uapi/linux/tty.h
MAX_INDEX = 1 << 20  # NR_UNIX98_PTY_MAX, include/linux/tty.h
TERMIOS2_SIZE, LOCKS_SIZE = 44, 36  # struct termios2; struct termios of the kernel
NO_LOCKS = bytes(LOCKS_SIZE)
QUEUE_SIZE = 4095  # what a line discipline holds at most: N_TTY_BUF_SIZE - 1, drivers/tty/n_tty.c
EXTPROC = 0o200000  # include/uapi/asm-generic/termbits.h
DISABLED = 0  # a special character that is switched off

# Packet status, include/uapi/asm-generic/ioctls.h
PKT_FLUSHREAD, PKT_FLUSHWRITE, PKT_STOP, PKT_START = 1, 2, 4, 8
PKT_NOSTOP, PKT_DOSTOP, PKT_IOCTL = 16, 32, 64

# Device numbers, Documentation/admin-guide/devices.txt
UNIX98_SLAVE_MAJOR = 136
TTY_MAJOR, TTYAUX_MAJOR = 4, 5
DEV_TTY = os.makedev(TTYAUX_MAJOR, 0)
DEV_CONSOLE = os.makedev(TTYAUX_MAJOR, 1)
DEV_PTMX = os.makedev(TTYAUX_MAJOR, 2)

_TERMIOS2 = struct.Struct("=4IB19s2I")


class Termios(NamedTuple):
    """struct termios2: modes, discipline, special characters, speeds in baud."""

    iflag: int
    oflag: int
    cflag: int
    lflag: int
    line: int
    cc: bytes
    ispeed: int
    ospeed: int

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the kernel's `TERMIOS2_SIZE` bytes."""
        return cls(*_TERMIOS2.unpack(data))

    def pack(self) -> bytes:
        """As the kernel takes it."""
        return _TERMIOS2.pack(*self)

    @property
    def canonical(self) -> bool:
        """Whether input is read line by line; with EXTPROC the other end makes the lines."""
        return bool(self.lflag & termios.ICANON) and not self.lflag & EXTPROC

    def with_cc(self, **characters: int) -> Self:
        """With other special characters, for instance ``VEOF=4``."""
        cc = bytearray(self.cc)
        for name, value in characters.items():
            cc[getattr(termios, name)] = value
        return self._replace(cc=bytes(cc))


class Window(NamedTuple):
    """struct winsize: characters, then pixels."""

    rows: int
    columns: int
    width: int
    height: int


def _get(fd: int, request: int) -> int:
    answer: int = struct.unpack("i", fcntl.ioctl(fd, request, bytes(4)))[0]
    return answer


def _set(fd: int, request: int, value: int) -> None:
    fcntl.ioctl(fd, request, struct.pack("i", value))


# Which terminal


def device(fd: int) -> int | None:
    """Device number of the terminal behind *fd*, for a master its slave's; None once hung up.

    Raises:
        OSError: ENOTTY for what is no terminal.
    """
    try:
        number = _get(fd, TIOCGDEV) & 0xFFFFFFFF
    except OSError as exc:
        if exc.errno == errno.EIO:
            return None
        raise
    # new_encode_dev(), include/linux/kdev_t.h
    return os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)


def index_of(master: int) -> int:
    """The number of a pseudo-terminal: N of /dev/pts/N."""
    return _get(master, TIOCGPTN)


def open_peer(master: int, flags: int) -> int:
    """Open the slave of a master, close-on-exec and without becoming its session's.

    Raises:
        OSError: EIO when the pseudo-terminal is locked.
    """
    # Given O_CLOEXEC, the open file would show it for ever, for each of its descriptors.
    fd = fcntl.ioctl(master, TIOCGPTPEER, flags & ~(os.O_ASYNC | os.O_CLOEXEC) | os.O_NOCTTY)
    os.set_inheritable(fd, False)
    return fd


# Settings


def get_termios(fd: int) -> Termios:
    """Modes and special characters."""
    return Termios.unpack(fcntl.ioctl(fd, TCGETS2, bytes(TERMIOS2_SIZE)))


def set_termios(fd: int, modes: Termios) -> None:
    """Change them now, whatever waits to be written or read."""
    fcntl.ioctl(fd, TCSETS2, modes.pack())


def get_locks(fd: int) -> bytes:
    """The mask of modes that cannot be changed."""
    return fcntl.ioctl(fd, TIOCGLCKTRMIOS, NO_LOCKS)


def set_locks(fd: int, mask: bytes) -> None:
    """Set that mask; needs CAP_SYS_ADMIN."""
    fcntl.ioctl(fd, TIOCSLCKTRMIOS, mask)


def get_window(fd: int) -> Window:
    """Window size."""
    return Window(*struct.unpack("4H", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))))


def set_window(fd: int, size: Window) -> None:
    """Set the window size; the foreground group gets SIGWINCH when it differs."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", *size))


def discipline(fd: int) -> int:
    """Line discipline, ``N_*``."""
    return _get(fd, TIOCGETD)


def is_exclusive(fd: int) -> bool:
    """Whether the end cannot be opened once more."""
    return bool(_get(fd, TIOCGEXCL))


def set_exclusive(fd: int) -> None:
    """Refuse further opens to all without CAP_SYS_ADMIN."""
    fcntl.ioctl(fd, termios.TIOCEXCL)


def is_locked(master: int) -> bool:
    """Whether the slave cannot be opened yet."""
    return bool(_get(master, TIOCGPTLCK))


def set_locked(master: int, locked: bool) -> None:
    """Lock or unlock the slave."""
    _set(master, TIOCSPTLCK, locked)


def is_packet_mode(master: int) -> bool:
    """Whether each read of the master begins with a status byte."""
    return bool(_get(master, TIOCGPKT))


def set_packet_mode(master: int, on: bool) -> None:
    """Switch packet mode; switching it on forgets the status."""
    _set(master, TIOCPKT, on)


def session_of(master: int) -> int:
    """The session whose controlling terminal the slave is; 0 for none, or one we cannot see."""
    try:
        return _get(master, TIOCGSID)
    except OSError as exc:
        if exc.errno == errno.ENOTTY:
            return 0
        raise


# What waits


def is_closed(master: int) -> bool:
    """Whether the slave was open, and nobody has it any more: a read fails with EIO."""
    poll = select.poll()
    poll.register(master, 0)
    return bool(dict(poll.poll(0)).get(master, 0) & select.POLLHUP)


def unread(fd: int) -> int:
    """Bytes that could be read now; in canonical mode, of complete lines."""
    return _get(fd, termios.FIONREAD)


def insert(fd: int, data: bytes) -> None:
    """Put bytes into the input of an end as if they had come from the other one; TIOCSTI.

    They pass the line discipline at once, also when output is stopped. Needs CAP_SYS_ADMIN. What
    exceeds `QUEUE_SIZE` is dropped.
    """
    for byte in data:
        fcntl.ioctl(fd, termios.TIOCSTI, bytes([byte]))


def stop_output(fd: int) -> None:
    """tcflow(TCOOFF)."""
    fcntl.ioctl(fd, termios.TCXONC, termios.TCOOFF)


def start_output(fd: int) -> None:
    """tcflow(TCOON); does not start what a STOP character has stopped."""
    fcntl.ioctl(fd, termios.TCXONC, termios.TCOON)


def flush_input(fd: int) -> None:
    """tcflush(TCIFLUSH)."""
    fcntl.ioctl(fd, termios.TCFLSH, termios.TCIFLUSH)


def flush_output(fd: int) -> None:
    """tcflush(TCOFLUSH)."""
    fcntl.ioctl(fd, termios.TCFLSH, termios.TCOFLUSH)


def hang_up(fd: int) -> None:
    """Hang up every description of this end; they answer with EIO from now on."""
    fcntl.ioctl(fd, TIOCVHANGUP)
