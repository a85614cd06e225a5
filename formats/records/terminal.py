"""Terminals: pseudo-terminals with their settings, sessions and what waits in them."""

from __future__ import annotations

from dataclasses import dataclass

from formats.records.codec import record
from formats.records.files import Owner


@dataclass(frozen=True, slots=True)
class TerminalLine:
    """A complete line that waits to be read in canonical mode.

    Attributes:
        data: Its bytes, the delimiter among them.
        delimited: False when an end-of-file character has ended it, which nobody reads.
    """

    data: bytes
    delimited: bool


@dataclass(frozen=True, slots=True)
class TerminalQueue:
    """What waits in a pseudo-terminal.

    Attributes:
        lines: Complete lines for the slave, canonical mode only, oldest first.
        input: Further bytes for the slave; in canonical mode an incomplete line.
        output: Bytes for the master.
        stopped: Whether the slave's output is stopped: "" for no, "byte" by a STOP character,
            "call" by tcflow(3).
        master_stopped: Whether the master's is, by tcflow(3).
        packet_status: The status byte that the master has yet to read in packet mode.
    """

    lines: tuple[TerminalLine, ...] = ()
    input: bytes = b""
    output: bytes = b""
    stopped: str = ""
    master_stopped: bool = False
    packet_status: int = 0


@record("terminal")
@dataclass(frozen=True, slots=True)
class Terminal:
    """A pseudo-terminal.

    Attributes:
        terminal_id: Id.
        index: N of /dev/pts/N; -1 for any, when only hung-up descriptors of /dev/tty are left.
        devpts: Where its devpts is mounted in the container.
        fs_id: Of that file system, where a program has mounted it; 0 for the sandbox's.
        master: "open"; "closed", and the slave's descriptors hung up; "console" when it is
            outside and this is the container's console.
        slave_closed: Whether the slave was open, and is not any more: the master reads EIO.
        locked: ioctl(2) TIOCSPTLCK.
        packet: Packet mode.
        exclusive: TIOCEXCL of the slave.
        master_exclusive: TIOCEXCL of the master.
        termios: struct termios2, or empty when nobody can ask for it.
        termios_locks: struct termios of the modes that cannot be changed; empty for none.
        window: Rows, columns, width and height in pixels.
        mode: Permission bits of /dev/pts/N.
        uid: Its owner.
        gid: Its group.
        session: The session that it controls, as the container sees it, or 0.
        foreground: That session's foreground group, or 0.
        strangers: Processes of that session that do not have it as controlling terminal.
        queue: What waits in it, if the master is open.
    """

    terminal_id: int
    index: int
    devpts: str
    master: str
    slave_closed: bool = False
    locked: bool = False
    packet: bool = False
    exclusive: bool = False
    master_exclusive: bool = False
    termios: bytes = b""
    termios_locks: bytes = b""
    window: tuple[int, int, int, int] = (0, 0, 0, 0)
    mode: int = 0
    uid: int = 0
    gid: int = 0
    session: int = 0
    foreground: int = 0
    strangers: tuple[int, ...] = ()
    queue: TerminalQueue | None = None
    fs_id: int = 0


@record("file-terminal")
@dataclass(frozen=True, slots=True)
class TerminalEnd:
    """A description of an end of a pseudo-terminal.

    Attributes:
        file_id: Id.
        terminal_id: The pseudo-terminal.
        master: Which end.
        path: That it was opened by: /dev/pts/N, /dev/tty, …
        flags: open(2) flags.
        hung_up: Whether it was hung up: every call fails.
        owner: SIGIO's, or None.
    """

    file_id: int
    terminal_id: int
    master: bool
    path: str
    flags: int
    hung_up: bool = False
    owner: Owner | None = None


@record("file-terminal-outside")
@dataclass(frozen=True, slots=True)
class OutsideTerminal:
    """A descriptor of a terminal of the host's; a restore gives its own terminal (shell job)."""

    file_id: int
    flags: int
    description: str
    owner: Owner | None = None
