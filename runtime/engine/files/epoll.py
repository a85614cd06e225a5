"""epoll(7): the descriptor and what it watches."""

from __future__ import annotations

import re
import struct

from formats.records.files import Epoll, EpollItem
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.remote import Batch
from runtime.kernel import kcmp
from runtime.kernel.anonfd import epoll_create

SAVED = (
    (
        "event descriptors",
        "eventfd, epoll (level, edge, one-shot, nested), signalfd, timerfd, inotify with its "
        "watches",
    ),
)
REFUSED = (("epoll-target", "an epoll entry whose number now stands for another file"),)

# struct epoll_event is packed on x86-64 only; see the manual page
_EVENT = struct.Struct("<IQ")
_ITEM = re.compile(r"(\d+) events: +([0-9a-f]+) data: +([0-9a-f]+)")
EPOLL_CTL_ADD = 1


class Epolls(Kind):
    """A set of watched descriptors."""

    name = "epoll"
    rank = 60
    record = Epoll

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
            target = self._target(table, look, fd, offset)
            if target is None:
                table.refuse(
                    look,
                    "epoll-target",
                    f"watches a file under number {fd}, which now stands for another file",
                )
                return None
            items.append(EpollItem(fd=fd, events=events, data=data, file_id=target))
        return Epoll(file_id=file_id, flags=look.flags, items=tuple(items), owner=table.owner(look))

    @staticmethod
    def _target(table: FileTable, look: Look, fd: int, offset: int) -> int | None:
        """The file record of a watched file, if a holder of the set still has it at *fd*."""
        own = table.file_id(look.pid, look.fd)
        for holder in table.looks[own] if own is not None else ():
            target = table.file_id(holder.pid, fd)
            if target is not None and kcmp.same_epoll_target(
                holder.pid, fd, look.pid, look.fd, fd, offset
            ):
                return target
        return None

    def restore(self, files: RestoredFiles, record: Epoll) -> int:
        return epoll_create()

    def finish(self, files: RestoredFiles, record: Epoll) -> None:
        """Add the items, from within a process: an item is a file *and* its number there."""
        for tracee, epoll_fd in files.holders(record.file_id):
            batch = Batch()
            mine = [i for i in record.items if files.descriptor(tracee.pid, i.fd) == i.file_id]
            for item in mine:
                event = _EVENT.pack(item.events, item.data)
                # EEXIST: an earlier holder of the set has added the item.
                batch.call("epoll_ctl", epoll_fd, EPOLL_CTL_ADD, item.fd, event, may_fail=True)
                if batch.full:
                    tracee.run(batch)
                    batch = Batch()
            if len(batch):
                tracee.run(batch)
            if len(mine) == len(record.items):
                return
