"""The pseudo-terminals of a container: which descriptors are whose ends, and of which sessions.

A pseudo-terminal is known by the instance of devpts that holds it (a container has its own) and its
number there. It belongs to the container when its master does, or when it is the container's
console, whose master somebody outside holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from formats.records.terminal import Terminal, TerminalQueue
from runtime.engine.files.kind import Look
from runtime.engine.files.mounts import open_inside, stat_inside
from runtime.engine.files.table import FileTable
from runtime.engine.terminal_queue import Ends, put, slave_of, take
from runtime.kernel import namespaces, proc_task, tty
from runtime.kernel.mountinfo import Mount

ANY_INDEX = -1
_TERMINAL_MAJORS = frozenset({*range(136, 144), tty.TTY_MAJOR, tty.TTYAUX_MAJOR, 2, 3})


def is_terminal(look: Look) -> bool:
    """Whether a character device is some terminal."""
    if os.major(look.stat.st_rdev) in _TERMINAL_MAJORS:
        return True
    fd = look.duplicate()
    try:
        return os.isatty(fd)
    finally:
        os.close(fd)


def is_terminal_here(table: FileTable, look: Look) -> bool:
    """Whether it is an end of a pseudo-terminal that the container has both ends of."""
    rdev = look.stat.st_rdev
    if rdev not in (tty.DEV_PTMX, tty.DEV_TTY) and os.major(rdev) != tty.UNIX98_SLAVE_MAJOR:
        return False
    return TerminalTable.of(table).pair_of(look) is not None


@dataclass(slots=True, eq=False)
class Pair:
    """A pseudo-terminal of the container.

    Attributes:
        terminal_id: In the image.
        device: st_dev of its devpts; 0 when nobody can tell any more.
        index: Its number there.
        mount: Where the container has that devpts.
        console: Whether it is the container's console.
        master: The master's description, if it is the container's.
        slaves: The slave's descriptions, those of /dev/tty among them.
        hung: Those that were hung up.
    """

    terminal_id: int
    device: int
    index: int
    mount: Mount | None
    console: bool = False
    master: Look | None = None
    slaves: list[Look] = field(default_factory=list)
    hung: list[Look] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Session:
    """Whose controlling terminal a pseudo-terminal is; all as the container sees it."""

    session: int = 0
    foreground: int = 0
    strangers: tuple[int, ...] = ()


class TerminalTable:
    """All pseudo-terminals of a container while it is dumped."""

    def __init__(self, table: FileTable) -> None:
        self._table = table
        self._context = table.context
        mounts = table.mounts.mounts.values()
        # The last of several is the one on top.
        self._devpts = {
            m.device: m
            for m in [*_mounts_elsewhere(table), *mounts]
            if m.fstype == "devpts" and m.root == "/"
        }
        self._pairs: dict[tuple[int, int], Pair] = {}
        self._of: dict[int, Pair] = {}
        self._devices: dict[int, int | None] = {}
        looks = [
            group[0]
            for group in table.looks.values()
            if os.major(group[0].stat.st_rdev) in _TERMINAL_MAJORS
            and not group[0].flags & os.O_PATH
        ]
        self._add_masters(look for look in looks if look.stat.st_rdev == tty.DEV_PTMX)
        self._add_console(mounts)
        self._add_slaves(
            look for look in looks if os.major(look.stat.st_rdev) == tty.UNIX98_SLAVE_MAJOR
        )
        self._add_current(look for look in looks if look.stat.st_rdev == tty.DEV_TTY)

    @staticmethod
    def of(table: FileTable) -> TerminalTable:
        """The one of a dump."""
        return table.once("terminals", lambda: TerminalTable(table))

    def pair_of(self, look: Look) -> Pair | None:
        """The pseudo-terminal that a descriptor is an end of, if it is the container's."""
        return self._of.get(id(look))

    def is_slave(self, look: Look) -> bool:
        """Whether a terminal from outside is, or was, the slave of some pseudo-terminal."""
        device = self._devices.get(id(look), look.stat.st_rdev)
        return device is None or os.major(device) == tty.UNIX98_SLAVE_MAJOR

    # Pairs

    def _pair(self, device: int, index: int) -> Pair:
        if (device, index) not in self._pairs:
            mount = self._devpts.get(device)
            self._pairs[device, index] = Pair(self._context.new_id(), device, index, mount)
        return self._pairs[device, index]

    def _add_masters(self, looks: Iterable[Look]) -> None:
        for look in looks:
            device = self._instance(look)
            if device in self._devpts:
                pair = self._pair(device, int(look.info.one("tty-index")))
                pair.master = look
                self._of[id(look)] = pair

    def _instance(self, look: Look) -> int:
        """st_dev of the devpts that a master belongs to."""
        if look.stat.st_dev in self._devpts:
            return look.stat.st_dev
        # A device node elsewhere: its devpts is the directory "pts" beside it.
        beside = os.path.join(os.path.dirname(look.link), "pts")
        with contextlib.suppress(OSError):
            return stat_inside(self._table.root, beside).st_dev
        return 0

    def _add_console(self, mounts: Iterable[Mount]) -> None:
        for mount in mounts:
            number = mount.root.removeprefix("/")
            if mount.point == "/dev/console" and mount.fstype == "devpts" and number.isdigit():
                pair = self._pair(mount.device, int(number))
                pair.console = pair.master is None and pair.mount is not None

    def _add_slaves(self, looks: Iterable[Look]) -> None:
        for look in looks:
            key = (look.stat.st_dev, os.minor(look.stat.st_rdev))
            hung_up = self._device(look) is None
            if key not in self._pairs and not (hung_up and look.stat.st_dev in self._devpts):
                continue
            pair = self._pair(*key)
            (pair.hung if hung_up else pair.slaves).append(look)
            self._of[id(look)] = pair

    def _add_current(self, looks: Iterable[Look]) -> None:
        for look in looks:
            device = self._device(look)
            if device is None:
                # Which one it was, nobody can tell; nor can the program.
                pair = Pair(self._context.new_id(), 0, ANY_INDEX, self._own_devpts())
                self._pairs[0, -len(self._pairs) - 1] = pair
                pair.hung.append(look)
            else:
                found = self._by_device(device, proc_task.stat(look.pid).session)
                if found is None:
                    continue
                pair = found
                pair.slaves.append(look)
            self._of[id(look)] = pair

    def _own_devpts(self) -> Mount | None:
        return next(iter(self._devpts.values()), None)

    def _device(self, look: Look) -> int | None:
        """Device number behind a description; None once hung up."""
        fd = look.duplicate()
        try:
            device = self._devices[id(look)] = tty.device(fd)
        finally:
            os.close(fd)
        return device

    def _by_device(self, device: int, session: int) -> Pair | None:
        """The pseudo-terminal with a device number, of several devpts the one of a session."""
        if os.major(device) != tty.UNIX98_SLAVE_MAJOR:
            return None
        found = [p for p in self._pairs.values() if p.index == os.minor(device)]
        if len(found) < 2:
            return found[0] if found else None
        return next((pair for pair in found if self._is_session(pair, session)), None)

    @staticmethod
    def _is_session(pair: Pair, session: int) -> bool:
        if pair.master is None:
            return False
        master = pair.master.duplicate()
        try:
            return tty.session_of(master) == session
        finally:
            os.close(master)

    # Records

    def collect(self, living: Iterable[int]) -> None:
        """Have each pseudo-terminal saved last of all, once nothing is refused any more.

        Args:
            living: The container's processes, as our pid namespace sees them.
        """
        sessions = self._sessions(list(living))
        for pair in self._pairs.values():
            if pair.mount is None:
                look = (pair.master, *pair.slaves, *pair.hung)[-1]
                assert look is not None
                self._table.refuse(look, "tty-outside", "is of a devpts that is mounted nowhere")
                continue
            self._check_disciplines(pair)
            session = sessions.get(pair, _Session())
            self._table.at_last.append(partial(self._record, pair, pair.mount, session))

    def _sessions(self, living: list[int]) -> dict[Pair, _Session]:
        found: dict[Pair, _Session] = {}
        stats = {pid: proc_task.stat(pid) for pid in living}
        for pid, stat in stats.items():
            if not stat.terminal:
                continue
            pair = self._by_device(stat.terminal, stat.session)
            if pair is None or stat.session not in self._context.ns_pids:
                self._context.refuse(
                    "tty-outside",
                    self._context.subject(pid),
                    "has a controlling terminal from outside the container",
                )
            elif pair not in found:
                found[pair] = _Session(
                    session=self._context.ns_pids[stat.session],
                    foreground=self._group_inside(pid, stat, living),
                    strangers=tuple(
                        self._context.ns_pids[other]
                        for other, their in stats.items()
                        if their.session == stat.session and not their.terminal
                    ),
                )
        return found

    def _group_inside(self, pid: int, stat: proc_task.Stat, living: list[int]) -> int:
        """The foreground group as the container sees it; it need not have any member."""
        group = stat.foreground
        if group in self._context.ns_pids or not group:
            return self._context.ns_pids.get(group, 0)
        for member in living:
            ids = proc_task.status(member).ints("NSpgid")
            if ids[0] == group:
                return ids[-1]
        inside = Path(f"{self._table.root}/proc/{self._context.ns_pids[pid]}/stat")
        try:
            fields = inside.read_bytes().rpartition(b") ")[2].split()
            if int(fields[22 - 3]) == stat.start_time:
                return max(int(fields[8 - 3]), 0)
        except (OSError, ValueError, IndexError):
            pass  # the container has no /proc, or somebody else's
        self._context.refuse(
            "tty-foreground",
            self._context.subject(pid),
            "has a terminal whose foreground group has ended, under a number that cannot be found",
        )
        return 0

    def _check_disciplines(self, pair: Pair) -> None:
        ends = [pair.master, *pair.slaves[:1]]
        for look in ends:
            if look is None:
                continue
            fd = look.duplicate()
            try:
                number = tty.discipline(fd)
            finally:
                os.close(fd)
            if number != tty.N_TTY:
                self._table.refuse(
                    look, "tty-discipline", f"has line discipline {number}, which cannot be saved"
                )

    def _record(self, pair: Pair, mount: Mount, session: _Session) -> Terminal:
        state = "console" if pair.console else "closed" if pair.master is None else "open"
        record = Terminal(
            terminal_id=pair.terminal_id,
            index=pair.index,
            devpts=mount.point,
            fs_id=self._made_by_program(mount),
            master=state,
            session=session.session,
            foreground=session.foreground,
            strangers=session.strangers,
        )
        if pair.master is not None:
            master = pair.master.duplicate()
            try:
                record = self._with_master(pair, record, master)
            finally:
                os.close(master)
        elif pair.console:
            record = self._with_slave(pair, record)
        if record.master != "closed":
            node = stat_inside(*self._node(pair, mount))
            record = replace(record, mode=node.st_mode & 0o7777, uid=node.st_uid, gid=node.st_gid)
        return record

    def _made_by_program(self, mount: Mount) -> int:
        """The file system's number in the image, of an instance that the sandbox has not made."""
        entry = self._table.mounts.entries.get(mount.mount_id)
        if entry is None or entry.is_given:
            return 0
        return self._table.mounts.file_system(mount.device, self._context.new_id)

    def _node(self, pair: Pair, mount: Mount) -> tuple[str, str]:
        """Where the slave's file is: a directory of ours, and the path there."""
        entry = self._table.mounts.entries.get(mount.mount_id)
        if entry is None or entry.top < 0:
            return self._table.root, f"{mount.point}/{pair.index}"
        return f"/proc/self/fd/{entry.top}", str(pair.index)

    def _with_master(self, pair: Pair, record: Terminal, master: int) -> Terminal:
        closed, locked = tty.is_closed(master), tty.is_locked(master)
        with slave_of(master) as slave, _no_signals(pair):
            ends = Ends(
                master,
                slave,
                tty.get_termios(master),
                tty.get_locks(master),
                tty.is_packet_mode(master),
            )
            queue = take(ends)
            self._warn_of_loss(pair, queue, put(ends, queue))
            return replace(
                record,
                slave_closed=closed,
                locked=locked,
                packet=ends.packet,
                exclusive=tty.is_exclusive(slave),
                master_exclusive=tty.is_exclusive(master),
                termios=ends.modes.pack(),
                termios_locks=_or_empty(ends.locks),
                window=tty.get_window(master),
                queue=queue,
            )

    def _warn_of_loss(self, pair: Pair, queue: TerminalQueue, lost: int) -> None:
        if lost:
            self._context.warnings.append(f"/dev/pts/{pair.index}: {lost} unread bytes were lost")
        if queue.stopped == "byte":
            self._context.warnings.append(
                f"/dev/pts/{pair.index}: what a terminal stopped by ^S still has to echo is lost"
            )

    def _with_slave(self, pair: Pair, record: Terminal) -> Terminal:
        """The console: its master reads at this moment, so nothing of it is touched."""
        path = f"{record.devpts}/{pair.index}"
        slave = open_inside(self._table.root, path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            if unread := tty.unread(slave):
                self._context.warnings.append(
                    f"console: {unread} bytes that were typed and not yet read are not saved"
                )
            return replace(
                record,
                exclusive=tty.is_exclusive(slave),
                termios=tty.get_termios(slave).pack(),
                termios_locks=_or_empty(tty.get_locks(slave)),
                window=tty.get_window(slave),
            )
        finally:
            os.close(slave)


def _mounts_elsewhere(table: FileTable) -> Iterable[Mount]:
    """Mounts that the init does not see, in namespaces of its own user namespace."""
    context = table.context
    users = os.stat(f"/proc/{context.target.init_pid}/ns/user").st_ino
    ours = set()
    for scope in context.scopes.values():
        if scope.kind != "mnt":
            continue
        fd = os.open(scope.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            owner = namespaces.owner(fd)
        finally:
            os.close(fd)
        if os.fstat(owner).st_ino == users:
            ours.add(scope.inode)
        os.close(owner)
    return [e.mount for e in table.mounts.entries.values() if e.namespace in ours and e.top >= 0]


def _or_empty(locks: bytes) -> bytes:
    return locks if any(locks) else b""


@contextlib.contextmanager
def _no_signals(pair: Pair) -> Iterator[None]:
    """Switch O_ASYNC off, or the program would get SIGIO for what is inserted again."""
    looks = (pair.master, *pair.slaves)
    duplicates = [look.duplicate() for look in looks if look and look.flags & os.O_ASYNC]
    try:
        for fd in duplicates:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_ASYNC)
        yield
    finally:
        for fd in duplicates:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
            os.close(fd)
