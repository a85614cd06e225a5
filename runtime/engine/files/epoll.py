"""epoll(7): the descriptor and what it watches.

An item is an open file description together with the number it had when it was added. The number
may have been closed since, and may now stand for another file, as long as some descriptor keeps
the description alive. So items are added by us, in a thread whose descriptor table we may fill as
we like, and not by the processes.

Signalfds are the exception: a set hears of signals of the process that has added the item, and of
no other, signalfd(2). So a process that has both adds them.
"""

from __future__ import annotations

import fcntl
import os
import re
import select

from formats.records.files import Epoll, EpollItem, SignalFd
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.remote import Batch, Tracee
from runtime.errors import RestoreError
from runtime.kernel import kcmp
from runtime.kernel.anonfd import (
    EPOLL_CTL_ADD,
    TAKEN_AT_ONCE,
    epoll_add,
    epoll_create,
    epoll_modify,
    epoll_params,
    epoll_take,
    pack_event,
    set_epoll_params,
)
from runtime.kernel.aside import with_own_table

SAVED = (
    (
        "event descriptors",
        "eventfd, epoll (level, edge, one-shot, exclusive, nested; entries whose number is closed "
        "or stands for another file), signalfd, timerfd, inotify with its watches",
    ),
)
REFUSED = (("epoll-target", "an epoll entry whose file is open outside the container only"),)

_ITEM = re.compile(
    r"(\d+) events: +([0-9a-f]+) data: +([0-9a-f]+)(?: +pos:-?\d+ ino:([0-9a-f]+) sdev:)?"
)
EPOLLONESHOT = 1 << 30
# Events, without the flags at the top. ERR and HUP are always among an item's, until it has fired.
_EVENTS = 0x0FFFFFFF
MAX_NUMBER = 1 << 30  # descriptors of one process, sysctl fs.nr_open
_ALL_EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI | select.EPOLLRDHUP


class Epolls(Kind):
    """A set of watched descriptors."""

    name = "epoll"
    rank = 60
    record = Epoll
    finishes_last = True  # what the others do when they finish may count as events

    def matches(self, table: FileTable, look: Look) -> bool:
        return look.link == "anon_inode:[eventpoll]"

    def dump(self, table: FileTable, look: Look, file_id: int) -> Epoll | None:
        items = []
        seen: dict[int, int] = {}
        for line in look.info.get("tfd", ()):
            match = _ITEM.match(line)
            if match is None:
                raise ValueError(f"epoll shows an item as {line!r}")
            fd, events, data = int(match[1]), int(match[2], 16), int(match[3], 16)
            offset = seen[fd] = seen.get(fd, -1) + 1
            target = self._target(table, look, fd, offset, int(match[4] or "0", 16))
            if target is None:
                table.refuse(
                    look,
                    "epoll-target",
                    f"watches a file under number {fd} that no process of the container has open",
                )
                return None
            items.append(EpollItem(fd=fd, events=events, data=data, file_id=target))
        ours = look.duplicate()
        try:
            ready = _polls(ours)
            busy_poll = epoll_params(ours)
        finally:
            os.close(ours)
        return Epoll(
            file_id=file_id,
            flags=look.flags,
            items=tuple(items),
            owner=table.owner(look),
            ready=ready,
            busy_poll=busy_poll,
        )

    @staticmethod
    def _target(table: FileTable, look: Look, fd: int, offset: int, inode: int) -> int | None:
        """The file record of a watched file: at *fd* of a holder of the set, or anywhere."""

        def watched(pid: int, number: int) -> bool:
            return kcmp.same_epoll_target(pid, number, look.pid, look.fd, fd, offset)

        own = table.file_id(look.pid, look.fd)
        for holder in table.looks[own] if own is not None else ():
            target = table.file_id(holder.pid, fd)
            if target is not None and watched(holder.pid, fd):
                return target
        for file_id, group in table.looks.items():
            if inode in (0, group[0].stat.st_ino) and watched(group[0].pid, group[0].fd):
                return file_id
        return None

    # Restore

    def restore(self, files: RestoredFiles, record: Epoll) -> int:
        return epoll_create()

    def finish(self, files: RestoredFiles, record: Epoll) -> None:
        files.once("epolls", lambda: _finish_all(files))


def _polls(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))


def _finish_all(files: RestoredFiles) -> None:
    records = [record for record in files.all_of(Epoll) if record.file_id in files.fds]
    for record in records:
        if any(record.busy_poll):
            set_epoll_params(files.fds[record.file_id], *record.busy_poll)
        if record.items:
            _add_items(files, record)
    # An edge is reported when an item is added. A set that had nothing to tell has told it before.
    # Twice, for what an inner set still had may have shown in the outer one.
    for _ in range(2):
        for record in records:
            if not record.ready:
                _drain(files.fds[record.file_id], len(record.items))


def _add_items(files: RestoredFiles, record: Epoll) -> None:
    epoll = files.fds[record.file_id]
    for item in record.items:
        if item.file_id not in files.fds or not 0 <= item.fd < MAX_NUMBER:
            raise RestoreError(
                f"epoll file {record.file_id} watches file {item.file_id} as number {item.fd}, "
                "which cannot be",
                reason="image-inconsistent",
            )

    adders = _adders(files, record)
    heard = [item for item in record.items if item.file_id in adders]
    plain = [item for item in record.items if item.file_id not in adders]

    def add() -> None:
        above = max(item.fd for item in record.items) + 1
        here = fcntl.fcntl(epoll, fcntl.F_DUPFD_CLOEXEC, above)
        targets = {
            file_id: fcntl.fcntl(files.fds[file_id], fcntl.F_DUPFD_CLOEXEC, above)
            for file_id in {item.file_id for item in plain}
        }
        # Those that have fired first, while nothing else in the set can have events.
        for item in sorted(plain, key=_has_fired, reverse=True):
            os.dup2(targets[item.file_id], item.fd, inheritable=False)
            if _has_fired(item):
                _add_fired(here, item)
            else:
                epoll_add(here, item.fd, item.events, item.data)

    with_own_table(add)
    for item in heard:
        task, here, number = adders[item.file_id]
        _add_inside(task, here, number, item)


def _adders(files: RestoredFiles, record: Epoll) -> dict[int, tuple[Tracee, int, int]]:
    """For each signalfd of a set: a task that has both, and their numbers there.

    Who added it cannot be seen. In a set that fork has given to several processes it was most
    likely the first; where nobody has both, nobody's signals can be heard any more.
    """
    signalfds = files.once("signalfds", lambda: {s.file_id for s in files.all_of(SignalFd)})
    found: dict[int, tuple[Tracee, int, int]] = {}
    for tid, table in files.tables.items():
        numbers = {file_id: fd for fd, file_id in table.items()}
        epoll = numbers.get(record.file_id)
        if epoll is None:
            continue
        for item in record.items:
            if item.file_id in signalfds and item.file_id in numbers:
                place = files.tracees[tid], epoll, numbers[item.file_id]
                found.setdefault(item.file_id, place)
    return found


def _add_inside(task: Tracee, epoll: int, number: int, item: EpollItem) -> None:
    """Let a task add its descriptor *number* as if it were the item's number."""
    batch = Batch()
    flags = batch.call("fcntl", item.fd, fcntl.F_GETFD, may_fail=True)
    before = task.run(batch)[flags]
    batch = Batch()
    aside = batch.call("dup", item.fd) if before >= 0 else None
    # Above it, lest the copy take that very number.
    copy = batch.call("fcntl", number, fcntl.F_DUPFD_CLOEXEC, item.fd + 1)
    batch.call("dup3", copy, item.fd, os.O_CLOEXEC)
    event = pack_event(item.events, item.data)
    batch.call("epoll_ctl", epoll, EPOLL_CTL_ADD, item.fd, event)
    if aside is None:
        batch.call("close", item.fd)
    else:
        batch.call("dup3", aside, item.fd, os.O_CLOEXEC if before & fcntl.FD_CLOEXEC else 0)
        batch.call("close", aside)
    batch.call("close", copy)
    task.run(batch)


def _has_fired(item: EpollItem) -> bool:
    return bool(item.events & EPOLLONESHOT) and not item.events & _EVENTS


def _add_fired(epoll: int, item: EpollItem) -> None:
    """Add a one-shot item and let it fire: nothing else can switch it off."""
    epoll_add(epoll, item.fd, item.events | _ALL_EVENTS, item.data)
    if not epoll_take(epoll):
        # There is nothing to fire at. It stays open to errors and hang-ups, and to those alone.
        epoll_modify(epoll, item.fd, item.events, item.data)


def _drain(epoll: int, items: int) -> None:
    # A level that is there after all would come again and again.
    for _ in range(items // TAKEN_AT_ONCE + 1):
        if not epoll_take(epoll):
            return
