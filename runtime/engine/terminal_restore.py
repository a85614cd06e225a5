"""Pseudo-terminals of a container that comes to life.

All of them are made, filled and opened before there is any process but the init's stub: so nobody
gets a signal for it, and each session finds its terminal at the moment when its leader makes the
session. Children inherit a controlling terminal from their parents; the few that had let go of it
do so again at the end.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
from collections.abc import Iterable, Mapping

from formats.records.mounts import MountPoint
from formats.records.task import Process
from formats.records.terminal import Terminal, TerminalEnd, TerminalLine
from runtime.engine.files.mounts import open_inside
from runtime.engine.files.restored import FileSystem, RestoredFiles, open_again
from runtime.engine.helpers import WALL, end_helper, make_helper
from runtime.engine.mounts.sources import make_file_system
from runtime.engine.new_task import CONSOLE_FD, NewTask
from runtime.engine.restore_tree import end_task
from runtime.engine.terminal_queue import STOPS, Ends, put, slave_of
from runtime.errors import RestoreError
from runtime.kernel import pidfd, tty
from runtime.kernel.mount import AT_FDCWD
from runtime.kernel.tty import Termios, Window

log = logging.getLogger(__name__)

DEV_TTY = "/dev/tty"


class RestoredTerminals:
    """The pseudo-terminals of one restore.

    Args:
        files: The restore's files.
        init: The container's init, the only process yet.
        channel: To give tasks descriptors.
    """

    def __init__(self, files: RestoredFiles, init: NewTask, channel: socket.socket) -> None:
        self._files = files
        self._init = init
        self._channel = channel
        self._terminals = {t.terminal_id: t for t in files.all_of(Terminal)}
        self._ends = files.all_of(TerminalEnd)
        self._held: dict[int, int] = {}  # a descriptor of ours for each terminal: the master
        self._made: dict[int, int] = {}  # and for each file record
        self._console: int | None = None  # the slave of the new container's own terminal

    @staticmethod
    def of(files: RestoredFiles) -> RestoredTerminals:
        """The one of a restore."""

        def missing() -> RestoredTerminals:
            raise AssertionError("terminals are made before files")

        return files.once("terminals", missing)

    def make(self) -> None:
        """Make, fill and open all of them.

        Raises:
            RestoreError: A number is taken, or the image contradicts itself.
        """
        self._files.once("terminals", lambda: self)
        for end in self._ends:
            if end.terminal_id not in self._terminals:
                raise _inconsistent(f"file {end.file_id} is of no terminal")
        for terminal in self._terminals.values():
            _check(terminal)
        self._console = self._take_from_init()
        self._open_masters()
        for terminal in self._terminals.values():
            self._make_one(terminal)

    def descriptor(self, end: TerminalEnd) -> int:
        """Our descriptor for a description."""
        terminal = self._terminals[end.terminal_id]
        if terminal.fs_id and not end.master and not end.hung_up and end.path != DEV_TTY:
            self._open_on_mount(terminal, end)
        return self._made[end.file_id]

    def _open_on_mount(self, terminal: Terminal, end: TerminalEnd) -> None:
        """Open a slave anew, now that its devpts has a place: the path is what ttyname(3) finds."""
        mounts = (m for m in self._files.all_of(MountPoint) if m.fs_id == terminal.fs_id)
        tops = [self._files.tops[m.mount_id] for m in mounts if m.mount_id in self._files.tops]
        before = self._made[end.file_id]
        for top in tops:
            try:
                path = f"/proc/self/fd/{top}"
                fd = open_inside(path, str(terminal.index), end.flags | os.O_NOCTTY)
            except OSError:
                continue  # locked, or on a mount of nothing but something else
            if os.fstat(fd).st_rdev == os.fstat(before).st_rdev:
                self._made[end.file_id] = fd
                os.close(before)
                return
            os.close(fd)

    # Masters

    def _open_masters(self) -> None:
        wanted = [t for t in self._terminals.values() if t.master != "console"]
        for instance in {(t.devpts, t.fs_id) for t in wanted}:
            here = [t for t in wanted if (t.devpts, t.fs_id) == instance]
            self._open_instance(sorted(here, key=_index_or_last))

    def _open_instance(self, terminals: Iterable[Terminal]) -> None:
        """Open masters of one devpts, which gives the lowest free number each time."""
        between: list[int] = []
        try:
            for terminal in terminals:
                while True:
                    fd = self._open_master(terminal)
                    number = tty.index_of(fd)
                    if terminal.index in (number, -1):
                        self._hold(terminal, fd)
                        break
                    between.append(fd)
                    if number > terminal.index:
                        raise RestoreError(
                            f"{terminal.devpts}/{terminal.index}: the number is taken",
                            reason="tty-index",
                        )
        finally:
            for fd in between:
                os.close(fd)

    def _open_master(self, terminal: Terminal) -> int:
        ends = [end for end in self._of(terminal) if end.master]
        if len(ends) != (terminal.master == "open"):
            raise _inconsistent(f"terminal {terminal.index} has {len(ends)} masters")
        path, flags = (ends[0].path, ends[0].flags) if ends else ("", os.O_RDWR)
        top, devpts = self._instance(terminal)
        # The device node that the program has used may be gone; the devpts has one for sure.
        for candidate in filter(None, ("" if terminal.fs_id else path, f"{devpts}/ptmx")):
            try:
                fd = open_inside(top, candidate, flags | os.O_NOCTTY)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise RestoreError(
                    f"{candidate}: cannot make pseudo-terminal {terminal.index}: "
                    f"{os.strerror(exc.errno or 0)}",
                    reason="tty-index",
                ) from exc
            if os.fstat(fd).st_rdev == tty.DEV_PTMX:
                return fd
            os.close(fd)
        raise RestoreError(
            f"{terminal.devpts}: is no devpts, and the image holds a terminal of one",
            reason="devpts-missing",
        )

    def _instance(self, terminal: Terminal) -> tuple[str, str]:
        """Where the devpts of a terminal is: a directory of ours, and the path there."""
        if not terminal.fs_id:
            return self._files.root, terminal.devpts
        if terminal.fs_id not in self._files.file_systems:
            # One that a program has mounted: it stands long before there are mounts.
            mounts = self._files.all_of(MountPoint)
            record = next(
                (m for m in mounts if m.fs_id == terminal.fs_id and m.fstype == "devpts"), None
            )
            if record is None:
                raise _inconsistent(f"terminal {terminal.index} is of no devpts")
            made = make_file_system(self._files, self._init, record)
            self._files.file_systems[terminal.fs_id] = FileSystem("/", made, 0)
        return f"/proc/self/fd/{self._files.file_systems[terminal.fs_id].fd}", "."

    def _hold(self, terminal: Terminal, fd: int) -> None:
        self._files.close_later(fd)
        self._held[terminal.terminal_id] = fd

    def _of(self, terminal: Terminal) -> list[TerminalEnd]:
        return [end for end in self._ends if end.terminal_id == terminal.terminal_id]

    # One terminal

    def _make_one(self, terminal: Terminal) -> None:
        if terminal.master == "console":
            self._take_console(terminal)
            return
        master = self._held[terminal.terminal_id]
        tty.set_locked(master, False)
        ends = self._of(terminal)
        for end in ends:
            if end.master:
                self._made[end.file_id] = os.dup(master)
        hung = [end for end in ends if end.hung_up]
        if hung:
            for end in hung:
                self._open_slave(terminal, end, master)
            tty.hang_up(self._made[hung[0].file_id])
        if terminal.master == "closed":
            # The close hangs up whoever has the other end; and nobody finds it any more.
            self._files.close_early(master)
            del self._held[terminal.terminal_id]
            return
        if terminal.slave_closed:
            os.close(tty.open_peer(master, os.O_RDWR))
        self._fill(terminal, master)
        for end in ends:
            if not end.master and not end.hung_up:
                self._open_slave(terminal, end, master)
        self._set_node(terminal)
        tty.set_locked(master, terminal.locked)

    def _fill(self, terminal: Terminal, master: int) -> None:
        queue = terminal.queue
        assert queue is not None  # checked
        with slave_of(master) as slave:
            tty.set_window(slave, Window(*terminal.window))
            modes = Termios.unpack(terminal.termios)
            lost = put(Ends(master, slave, modes, packet=terminal.packet), queue)
            if lost:
                log.warning("/dev/pts/%d: %d unread bytes found no room", terminal.index, lost)
            if terminal.termios_locks:
                tty.set_locks(slave, terminal.termios_locks)
            if terminal.exclusive:
                tty.set_exclusive(slave)
            if terminal.master_exclusive:
                tty.set_exclusive(master)

    def _set_node(self, terminal: Terminal) -> None:
        top, devpts = self._instance(terminal)
        fd = open_inside(top, f"{devpts}/{terminal.index}", os.O_PATH)
        try:
            os.chown(f"/proc/self/fd/{fd}", terminal.uid, terminal.gid)
            os.chmod(f"/proc/self/fd/{fd}", terminal.mode & 0o7777)
        finally:
            os.close(fd)

    def _open_slave(self, terminal: Terminal, end: TerminalEnd, held: int) -> None:
        if end.path == DEV_TTY:
            fd = self._open_as_current(end, held)
        else:
            fd = self._open_by_name(terminal, end, held)
        self._made[end.file_id] = fd

    def _open_by_name(self, terminal: Terminal, end: TerminalEnd, held: int) -> int:
        device = tty.device(held)
        try:
            fd = open_inside(self._files.root, end.path, end.flags | os.O_NOCTTY)
        except OSError:
            fd = -1  # hidden by a mount, or the path is of a mount that this container has not
        if fd >= 0:
            if os.fstat(fd).st_rdev == device and self._is_end_of(terminal, fd):
                return fd
            os.close(fd)
        if terminal.master == "console":
            # It has another number here.
            return open_again(held, end.flags | os.O_NOCTTY)
        return tty.open_peer(held, end.flags)

    def _is_end_of(self, terminal: Terminal, fd: int) -> bool:
        path = open_inside(*self._instance(terminal), os.O_PATH | os.O_DIRECTORY)
        try:
            return os.fstat(fd).st_dev == os.fstat(path).st_dev
        finally:
            os.close(path)

    def _open_as_current(self, end: TerminalEnd, held: int) -> int:
        """Open /dev/tty, which a process does whose controlling terminal it is."""
        helper = make_helper(self._files)
        helper.call("setsid")
        (number,) = helper.receive(self._channel, [held])
        helper.call("ioctl", number, tty.TIOCSCTTY, 0)
        flags = end.flags & ~os.O_ASYNC
        opened = helper.call("openat", AT_FDCWD, os.fsencode(DEV_TTY) + b"\0", flags, 0)
        process = pidfd.open_pidfd(helper.pid)
        try:
            fd = pidfd.get_fd(process, opened)
        finally:
            os.close(process)
        # Its last process takes the session along, and the terminal is nobody's again.
        end_helper(self._files, helper)
        return fd

    # The console

    def _take_console(self, terminal: Terminal) -> None:
        slave = self._console
        if slave is None:
            raise RestoreError(
                "the image's program has a console; the configuration gives the new container none "
                "(process.terminal)",
                reason="console-missing",
            )
        self._held[terminal.terminal_id] = slave
        tty.set_termios(slave, Termios.unpack(terminal.termios))
        if terminal.window[:2] != (0, 0):
            tty.set_window(slave, Window(*terminal.window))
        if terminal.termios_locks:
            tty.set_locks(slave, terminal.termios_locks)
        if terminal.exclusive:
            tty.set_exclusive(slave)
        for end in self._of(terminal):
            if end.master or end.hung_up:
                raise _inconsistent("the console has a master, or was hung up")
            self._open_slave(terminal, end, slave)
        os.fchown(slave, terminal.uid, terminal.gid)
        os.fchmod(slave, terminal.mode & 0o7777)

    def _take_from_init(self) -> int | None:
        """The slave that the sandbox has left in its init, if it has made a terminal."""
        try:
            fd = self._files.take_from_init(CONSOLE_FD)
        except OSError as exc:
            if exc.errno == errno.EBADF:
                return None
            raise
        self._files.close_later(fd)
        return fd

    # Sessions

    def join_session(self, leader: NewTask) -> None:
        """Give a process that has just made its session the terminal which that session had."""
        for terminal in self._terminals.values():
            if terminal.session != leader.ns_pid:
                continue
            if terminal.terminal_id not in self._held:
                raise _inconsistent(f"session {leader.ns_pid} has a terminal that was hung up")
            (number,) = leader.receive(self._channel, [self._held[terminal.terminal_id]])
            leader.call("ioctl", number, tty.TIOCSCTTY, 0)
            leader.call("close", number)

    def settle_sessions(self, tasks: Mapping[int, NewTask]) -> None:
        """When every process is in its group: foreground groups, and who has let go.

        Args:
            tasks: The leader of each process by its pid inside.
        """
        for terminal in self._terminals.values():
            if not terminal.session:
                continue
            leader = tasks.get(terminal.session)
            if leader is None:
                raise _inconsistent(f"session {terminal.session} of a terminal has no leader")
            if terminal.foreground:
                self._set_foreground(terminal, leader, tasks)
            if terminal.strangers:
                self._let_go(terminal, tasks)

    def _let_go(self, terminal: Terminal, tasks: Mapping[int, NewTask]) -> None:
        held = self._held[terminal.terminal_id]
        # Only through the slave can a process let go of it.
        through = contextlib.nullcontext(held) if terminal.master == "console" else slave_of(held)
        with through as slave:
            for pid in terminal.strangers:
                if pid not in tasks or pid == terminal.session:
                    raise _inconsistent(f"process {pid} has let go of a terminal")
                (number,) = tasks[pid].receive(self._channel, [slave])
                tasks[pid].call("ioctl", number, tty.TIOCNOTTY, 0)
                tasks[pid].call("close", number)

    def _set_foreground(
        self, terminal: Terminal, leader: NewTask, tasks: Mapping[int, NewTask]
    ) -> None:
        group = struct.pack("<i", self._id_of_group(terminal.foreground, leader, tasks))
        (number,) = leader.receive(self._channel, [self._held[terminal.terminal_id]])
        try:
            leader.call("ioctl", number, tty.TIOCSPGRP, group)
        except OSError:
            if len(leader.ids) > 1:
                raise
            # A group that has no process any more: somebody has to be it for a moment.
            helper = leader.clone(0, 0, (terminal.foreground,))
            helper.call("setpgid", 0, 0)
            leader.call("ioctl", number, tty.TIOCSPGRP, group)
            end_task(helper, 0)
            leader.call("wait4", helper.ns_pid, 0, WALL, 0)
        leader.call("close", number)

    def _id_of_group(self, group: int, leader: NewTask, tasks: Mapping[int, NewTask]) -> int:
        """What a process group is called in the pid namespace of a session's leader."""
        if len(leader.ids) == 1:
            return group
        for process in self._files.all_of(Process):
            member = tasks.get(process.pid)
            if process.pgid == group and member and len(member.ids) == len(leader.ids):
                return member.call("getpgid", 0)
        raise RestoreError(
            f"group {group}, which a terminal has in its foreground, has no process in the pid "
            "namespace of its session",
            reason="tty-foreground",
        )


def _check(terminal: Terminal) -> None:
    """Refuse what no terminal can be."""
    known = terminal.master == "closed" or len(terminal.termios) == tty.TERMIOS2_SIZE
    filled = terminal.master != "open" or (
        terminal.queue is not None and terminal.queue.stopped in STOPS
    )
    possible = (
        known
        and filled
        and terminal.master in ("open", "closed", "console")
        and -1 <= terminal.index < tty.MAX_INDEX
        and len(terminal.termios_locks) in (0, tty.LOCKS_SIZE)
        and all(0 <= number < 1 << 16 for number in terminal.window)
        and all(line.data or not line.delimited for line in _lines(terminal))
    )
    if not possible:
        raise _inconsistent(f"terminal {terminal.index} is in no possible state")


def _lines(terminal: Terminal) -> tuple[TerminalLine, ...]:
    return terminal.queue.lines if terminal.queue else ()


def _index_or_last(terminal: Terminal) -> int:
    return terminal.index if terminal.index >= 0 else 1 << 31


def _inconsistent(sentence: str) -> RestoreError:
    return RestoreError(sentence, reason="image-inconsistent")
