"""Who a socket says its peer was, in the numbers of the container.

SO_PEERCRED gives a pid as the asking task's pid namespace sees it. For a live peer we know both
numbers; the number of a dead one only a task inside can tell.
"""

from __future__ import annotations

import socket
import stat
import struct

from runtime.engine.dump_tasks import ask
from runtime.engine.files.kind import Look
from runtime.engine.files.table import FileTable
from runtime.engine.remote import Batch

_UCRED = struct.Struct("iII")
_AT_ONCE = 500


class PeerPids:
    """Asks processes of a frozen container, each once for all of its sockets.

    Args:
        table: Knows the sockets.
    """

    def __init__(self, table: FileTable) -> None:
        self._context = table.context
        self._sockets: dict[int, list[int]] = {}
        for group in table.looks.values():
            for look in group:
                if stat.S_ISSOCK(look.stat.st_mode):
                    self._sockets.setdefault(look.pid, []).append(look.fd)
        self._answers: dict[int, dict[int, int]] = {}

    def of(self, look: Look) -> int:
        """The pid inside of a socket's peer, or 0 if nobody can tell."""
        if look.pid not in self._context.live:
            return 0  # a socket that no process has open
        if look.pid not in self._answers:
            self._answers[look.pid] = self._ask(look.pid)
        return self._answers[look.pid].get(look.fd, 0)

    def _ask(self, pid: int) -> dict[int, int]:
        found: dict[int, int] = {}
        fds = self._sockets[pid]
        for first in range(0, len(fds), _AT_ONCE):
            batch = Batch()
            rooms = {}
            for fd in fds[first : first + _AT_ONCE]:
                room = rooms[fd] = batch.data(bytes(_UCRED.size))
                size = batch.data(struct.pack("i", _UCRED.size))
                batch.call(
                    "getsockopt",
                    fd,
                    socket.SOL_SOCKET,
                    socket.SO_PEERCRED,
                    room,
                    size,
                    may_fail=True,  # other families have none
                )
            answers = ask(self._context, self._context.live[pid], batch)
            found |= {fd: _UCRED.unpack(answers.read(room))[0] for fd, room in rooms.items()}
        return found
