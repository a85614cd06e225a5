"""Pseudo-terminals: descriptors of masters, of slaves, and of /dev/tty."""

from __future__ import annotations

import os
import stat

from formats.records.terminal import OutsideTerminal, TerminalEnd
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.regular import is_opened_by_program
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.terminal_dump import TerminalTable, is_terminal, is_terminal_here
from runtime.engine.terminal_restore import RestoredTerminals
from runtime.errors import RestoreError

SAVED = (
    (
        "terminals",
        "pseudo-terminals under their numbers: modes, window size, packet and exclusive mode, "
        "locks, stopped output, unread input (lines and what is typed of the next) and output, "
        "ends that were closed or hung up; `/dev/tty`; the container's console",
    ),
)
REFUSED = (
    ("tty-outside", "a terminal whose other end is outside of the container", "--shell-job"),
    ("tty-device", "serial lines"),
    ("tty-foreground", "a terminal whose foreground group has ended, and no /proc to find it in"),
    ("tty-discipline", "a terminal with another line discipline than the usual one"),
)


class Terminals(Kind):
    """A description of an end of a pseudo-terminal of the container."""

    name = "pseudo-terminals"
    rank = 30
    record = TerminalEnd

    def matches(self, table: FileTable, look: Look) -> bool:
        return _is_open_device(look) and is_terminal_here(table, look)

    def dump(self, table: FileTable, look: Look, file_id: int) -> TerminalEnd | None:
        pair = TerminalTable.of(table).pair_of(look)
        if pair is None:
            return None
        return TerminalEnd(
            file_id=file_id,
            terminal_id=pair.terminal_id,
            master=look is pair.master,
            path=look.link.removesuffix(" (deleted)"),
            flags=look.flags,
            hung_up=look in pair.hung,
            owner=table.owner(look),
        )

    def restore(self, files: RestoredFiles, record: TerminalEnd) -> int:
        return RestoredTerminals.of(files).descriptor(record)


class OutsideTerminals(Kind):
    """A description of a terminal that is none of the container's."""

    name = "terminals from outside"
    rank = 31
    record = OutsideTerminal
    own_flags = False

    def matches(self, table: FileTable, look: Look) -> bool:
        # The system's consoles are opened again like other devices.
        ours = is_opened_by_program(look.stat.st_rdev)
        return _is_open_device(look) and not ours and is_terminal(look)

    def dump(self, table: FileTable, look: Look, file_id: int) -> OutsideTerminal | None:
        major = os.major(look.stat.st_rdev)
        if not TerminalTable.of(table).is_slave(look):
            name = f"device {major}:{os.minor(look.stat.st_rdev)}"
            table.refuse(look, "tty-device", f"is {name}, a terminal that is no pseudo-terminal")
            return None
        if not table.context.target.options.shell_job:
            table.refuse(
                look,
                "tty-outside",
                "is a terminal from outside the container; --shell-job lets a restore give its own",
            )
            return None
        return OutsideTerminal(file_id=file_id, flags=look.flags, description=look.link)

    def restore(self, files: RestoredFiles, record: OutsideTerminal) -> int:
        if not files.options.shell_job:
            raise RestoreError(
                f"{record.description}: was a terminal from outside; --shell-job gives our own",
                reason="tty-outside",
            )
        ours = next((fd for fd in files.stdio if os.isatty(fd)), None)
        if ours is None:
            raise RestoreError(
                f"{record.description}: no standard stream is a terminal to take its place",
                reason="tty-outside",
            )
        return os.dup(ours)


def _is_open_device(look: Look) -> bool:
    return stat.S_ISCHR(look.stat.st_mode) and not look.flags & os.O_PATH
