"""Connections that a listening UNIX socket has not accepted yet.

Such a connection has one end only that anybody can look at, the client's. The other is complete: it
has its credentials, and the client may have sent into it and be gone. No call shows that without
accepting the connection, which could not be undone. The kernel's memory shows it, see
`runtime.kernel.kernel_memory`; nothing changes there, for the container is frozen.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from formats.records.unix import UnixCredentials, UnixMessage, UnixPending
from runtime.engine.files.kind import Look
from runtime.engine.files.table import FileTable
from runtime.kernel import proc_task
from runtime.kernel.kernel_memory import KernelMemory, kernel_memory

_MOST_BUFFERS = 100_000  # what is walked through must end
TIOCOUTQ = 0x5411  # include/uapi/asm-generic/ioctls.h
_NOBODY = 2**32 - 1
_ADDRESS_NAME = 2  # of struct sockaddr_un, behind the family


class UnreadableError(Exception):
    """Something waits there that cannot be saved."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A connection as it waits.

    Attributes:
        credentials: Of whoever connected.
        name: Of the client.
        queue: What it has sent.
    """

    credentials: UnixCredentials | None
    name: bytes
    queue: tuple[UnixMessage, ...]


def dump_pending(
    table: FileTable, look: Look, sock: socket.socket, inodes: tuple[int, ...]
) -> tuple[UnixPending, ...] | None:
    """The connections that a listening socket has not accepted yet.

    Args:
        table: Knows the clients.
        look: The listening socket.
        sock: The same, ours.
        inodes: Of the clients, oldest first; 0 for one that is closed.

    Returns:
        None after refusing.
    """
    if any(inode and inode not in table.socket_inodes for inode in inodes):
        table.refuse(look, "unix-outside", "has a connection from outside that is not yet accepted")
        return None
    if not inodes:
        return ()
    clients = [_client(table, look.stat.st_dev, inode) for inode in inodes]
    if all(client is not None and not client.has_sent for client in clients):
        return tuple(
            UnixPending(inode, credentials=client.credentials if client else None)
            for inode, client in zip(inodes, clients, strict=True)
        )
    problem = "the kernel's memory cannot be read"
    memory = kernel_memory()
    if memory is not None:
        below = len(proc_task.status(table.context.target.init_pid).ns_pids) - 1
        try:
            found = PendingReader(memory, below).read(sock)
        except (OSError, KeyError, UnreadableError) as exc:
            problem = str(exc)
        else:
            if len(found) == len(clients):
                return tuple(
                    UnixPending(inode, b"" if inode else seen.name, seen.credentials, seen.queue)
                    for inode, seen in zip(inodes, found, strict=True)
                )
    table.refuse(
        look,
        "unix-pending-data",
        "has a connection that is not yet accepted and may hold data that cannot be looked "
        f"at ({problem}); try again",
    )
    return None


@dataclass(frozen=True, slots=True)
class _Client:
    """What a client that is not accepted yet shows from outside."""

    has_sent: bool
    credentials: UnixCredentials


def _client(table: FileTable, device: int, inode: int) -> _Client | None:
    """The client of a connection that is not accepted yet; None when it is closed."""
    if not inode:
        return None
    held = table.with_inode(device, inode)[0]
    fd = held.duplicate()
    try:
        has_sent = bool(struct.unpack("i", fcntl.ioctl(fd, TIOCOUTQ, bytes(4)))[0])
    finally:
        os.close(fd)
    status = proc_task.status(held.pid)
    who = UnixCredentials(
        table.context.ns_pids.get(held.pid, 0),
        status.ints("Uid")[1],
        status.ints("Gid")[1],
        status.ints("Groups"),
    )
    return _Client(has_sent, who)


class PendingReader:
    """Reads what waits at listening sockets.

    Args:
        memory: The kernel's.
        below: How many pid namespaces the container's is below ours.
    """

    def __init__(self, memory: KernelMemory, below: int) -> None:
        self._memory = memory
        own = memory.pointer(memory.task(), "task_struct", "thread_pid")
        self._depth = memory.word(own, "pid", "level") + below

    def read(self, listener: socket.socket) -> list[Waiting]:
        """The connections of a listening socket of ours, oldest first.

        Raises:
            UnreadableError: One holds descriptors, which cannot be got hold of.
            OSError: The memory is not as its types say.
        """
        memory = self._memory
        file = memory.file(listener.fileno())
        sk = memory.pointer(memory.pointer(file, "file", "private_data"), "socket", "sk")
        return [self._waiting(memory.pointer(skb, "sk_buff", "sk")) for skb in self._buffers(sk)]

    def _buffers(self, sk: int) -> Iterator[int]:
        """The buffers in a socket's receive queue."""
        head = self._memory.at(sk, "sock", "sk_receive_queue")
        skb = self._memory.pointer(head)  # next is the first of both structures
        for _ in range(_MOST_BUFFERS):
            if skb == head:
                return
            yield skb
            skb = self._memory.pointer(skb)
        raise OSError("a queue that does not end")

    def _waiting(self, sk: int) -> Waiting:
        memory = self._memory
        cred = memory.pointer(sk, "sock", "sk_peer_cred")
        pid = self._number(memory.pointer(sk, "sock", "sk_peer_pid"))
        who = None
        if cred:
            uid = memory.word(cred, "cred", "euid")
            who = UnixCredentials(pid, uid, memory.word(cred, "cred", "egid"), self._groups(cred))
        peer = memory.pointer(sk, "unix_sock", "peer")
        name = self._name(memory.pointer(peer, "unix_sock", "addr")) if peer else b""
        return Waiting(who, name, tuple(self._message(skb) for skb in self._buffers(sk)))

    def _groups(self, cred: int) -> tuple[int, ...]:
        memory = self._memory
        info = memory.pointer(cred, "cred", "group_info")
        count = memory.word(info, "group_info", "ngroups")
        packed = memory.read(memory.at(info, "group_info", "gid"), 4 * min(count, 65536))
        return tuple(memoryview(packed).cast("I"))

    def _number(self, pid: int) -> int:
        """A ``struct pid``'s number inside; 0 for a process that the container cannot see."""
        memory = self._memory
        if not pid or memory.word(pid, "pid", "level") < self._depth:
            return 0
        size = memory.types.size_of("upid")
        numbers = memory.at(pid, "pid", "numbers")
        return int.from_bytes(memory.read(numbers + self._depth * size, 4), "little")

    def _name(self, address: int) -> bytes:
        if not address:
            return b""
        memory = self._memory
        length = memory.word(address, "unix_address", "len")
        name = memory.read(memory.at(address, "unix_address", "name"), min(length, 110))
        found = name[_ADDRESS_NAME:]
        return found if found.startswith(b"\0") else found.rstrip(b"\0")

    # Messages

    def _message(self, skb: int) -> UnixMessage:
        memory = self._memory
        control = memory.at(skb, "sk_buff", "cb")
        if memory.pointer(control, "unix_skb_parms", "fp"):
            raise UnreadableError("a descriptor is on its way through it")
        pid = memory.pointer(control, "unix_skb_parms", "pid")
        uid = memory.word(control, "unix_skb_parms", "uid")
        who = None
        if pid or uid != _NOBODY:
            gid = memory.word(control, "unix_skb_parms", "gid")
            who = UnixCredentials(self._number(pid), uid, gid)
        return UnixMessage(data=self._content(skb), credentials=who)

    def _content(self, skb: int) -> bytes:
        memory = self._memory
        length, paged = (memory.word(skb, "sk_buff", name) for name in ("len", "data_len"))
        data = memory.read(memory.pointer(skb, "sk_buff", "data"), length - paged)
        if not paged:
            return data
        end = memory.word(skb, "sk_buff", "end")
        shared = memory.pointer(skb, "sk_buff", "head") + end
        count = memory.read(memory.at(shared, "skb_shared_info", "nr_frags"), 1)[0]
        fragments = memory.at(shared, "skb_shared_info", "frags")
        size = memory.types.size_of("skb_frag")
        for index in range(count):
            fragment = fragments + index * size
            page = memory.address_of_page(memory.pointer(fragment))
            offset = memory.word(fragment, "skb_frag", "offset")
            data += memory.read(page + offset, memory.word(fragment, "skb_frag", "len"))
        if len(data) != length:
            raise UnreadableError("it holds data in a form that wherry does not know")
        return data
