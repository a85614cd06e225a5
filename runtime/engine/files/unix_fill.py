"""What waits in UNIX sockets, sent again; and what has to come after it.

A message is sent by the socket that had sent it, or by one of ours with its name, because a
receiver sees that name. Its credentials are stated (SCM_CREDENTIALS), its descriptors are those
that have just been restored; every description exists by now, whatever it is in itself.

Datagram sockets are filled while they can be: one that is connected takes messages from its peer
alone. So first come the messages of others, then the connections, then the messages of the peer. A
connection from A to B must be made before one from B to C, for the same reason.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import struct

from formats.records.unix import Link, UnixMessage, UnixSocket
from runtime.engine.files.socket_options import (
    SO_BUF_LOCK,
    SO_SNDBUFFORCE,
    read_options,
    set_options,
)
from runtime.engine.files.unix_make import Making
from runtime.errors import RestoreError
from runtime.kernel.aside import with_own_directories
from runtime.kernel.socket_calls import disconnect

log = logging.getLogger(__name__)

_UCRED = struct.Struct("iII")
_OVERHEAD = 2048  # bytes of bookkeeping that a message may cost the sender
_MAX_FDS = 253  # SCM_MAX_FD, include/net/scm.h


def fill_all(making: Making) -> None:
    """Fill, connect and set up every socket of *making*."""
    records = making.records
    filling = _Filling(making, records)
    filling.datagrams()
    for record in records:
        if record.kind != socket.SOCK_DGRAM:
            filling.send(making.far.get(record.file_id), record, record.queue)
    for fd, listener, pending in making.waiting:
        filling.send(fd, listener, pending.queue)
        if not pending.client:
            os.close(fd)
    filling.close_gone()
    making.names.close()
    making.actors.close()
    filling.set_up()


class _Filling:
    def __init__(self, making: Making, records: list[UnixSocket]) -> None:
        self.making = making
        self.records = records
        self.by_inode = {record.inode: record for record in records}
        self.mail = [r for r in records if r.kind == socket.SOCK_DGRAM]
        self.by_name = {r.name: r for r in self.mail if r.name}
        self.senders: dict[bytes, int] = {}
        self.enlarged: dict[int, int] = {}
        self.passing: list[int] = []  # sockets of ours that stand for others

    # Messages

    def send(
        self,
        fd: int | None,
        record: UnixSocket,
        messages: tuple[UnixMessage, ...],
        address: bytes | str | None = None,
    ) -> None:
        """Send *messages* to the socket of *record* through our descriptor *fd*."""
        if not messages:
            return
        if fd is None:
            raise RestoreError(
                f"UNIX socket {record.inode} holds messages and has nobody to send them",
                reason="image-inconsistent",
            )
        with socket.socket(fileno=os.dup(fd)) as sender:
            room = sum(2 * len(message.data) + _OVERHEAD for message in messages)
            self.enlarged[fd] = self.enlarged.get(fd, 1 << 16) + room
            sender.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, self.enlarged[fd])
            for message in messages:
                self._send_one(sender, record, message, address)

    def _send_one(
        self,
        sender: socket.socket,
        record: UnixSocket,
        message: UnixMessage,
        address: bytes | str | None,
    ) -> None:
        flags = socket.MSG_DONTWAIT | (socket.MSG_OOB if message.urgent else 0)
        ancillary = self._ancillary(record, message)
        to = () if address is None else (address,)
        try:
            sent = sender.sendmsg([message.data], ancillary, flags, *to)
            while sent < len(message.data):  # a stream may take it in parts
                sent += sender.send(memoryview(message.data)[sent:], flags)
        except OSError as exc:
            raise RestoreError(
                f"UNIX socket {record.inode} does not take what waited in it: {exc.strerror}"
            ) from exc

    def _ancillary(
        self, record: UnixSocket, message: UnixMessage
    ) -> list[tuple[int, int, bytes | array.array[int]]]:
        found: list[tuple[int, int, bytes | array.array[int]]] = []
        if message.files:
            fds = self.making.files.fds
            if len(message.files) > _MAX_FDS or not fds.keys() >= set(message.files):
                raise RestoreError(
                    f"UNIX socket {record.inode} holds a descriptor of a file that the image lacks",
                    reason="image-inconsistent",
                )
            ours = array.array("i", [fds[file_id] for file_id in message.files])
            found.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, ours))
        who = message.credentials
        if who is not None:
            task = self.making.actors.task(who.pid)
            pid = os.getpid() if task is None else task.pid
            packed = _UCRED.pack(pid, who.uid, who.gid)
            found.append((socket.SOL_SOCKET, socket.SCM_CREDENTIALS, packed))
        return found

    # Datagram sockets

    def datagrams(self) -> None:
        """Names, messages and connections of datagram sockets."""
        for record in self.mail:
            self._part(record)
        early = [r for r in self.mail if self._was_named(r) and not r.queue]
        for record in early:
            self._connect_to_gone(record)
        for record in self.mail:
            self.making.bind(record)
        rest = {record.file_id: self._from_others(record) for record in self.mail}
        for record in self.mail:
            if self._was_named(record) and record not in early:
                self._connect_to_gone(record)
        for record in self._connection_order():
            self._connect(record)
        for record in self.mail:
            self._from_peer(record, rest[record.file_id])

    def _keeps_partner(self, record: UnixSocket) -> bool:
        """Whether a socket is still connected to the one that it was made with."""
        partner = self.making.partners.get(record.file_id)
        if partner is None:
            return False
        if record.link is Link.PEER:
            return self.by_inode[record.peer].file_id == partner
        return record.link is Link.GONE and partner == 0

    def _was_named(self, record: UnixSocket) -> bool:
        """Whether a socket is connected, by name, to one that is gone."""
        return record.link is Link.GONE and not self._keeps_partner(record)

    def _part(self, record: UnixSocket) -> None:
        if record.file_id not in self.making.partners:
            return
        if not self._keeps_partner(record):
            disconnect(self.making.made[record.file_id])
        elif record.link is Link.GONE and record.peer_name not in (b"", *self.by_name):
            far = self.making.far[record.file_id]
            self.making.names.bind_to(far, record.peer_name, "", None)

    def _connect_to_gone(self, record: UnixSocket) -> None:
        if not record.peer_name or record.peer_name in self._abstract_held():
            log.warning("UNIX socket %d comes back unconnected: its peer was gone", record.inode)
            return
        gone = self.making.plain(socket.SOCK_DGRAM)
        node = self.making.names.bind_to(gone, record.peer_name, "", None)
        with socket.socket(fileno=os.dup(self.making.made[record.file_id])) as sock:
            sock.connect(record.peer_name if node is None else node.address)
        os.close(gone)

    def _abstract_held(self) -> set[bytes]:
        return {
            record.name
            for record in self.mail
            if record.name.startswith(b"\0") and record.file_id in self.making.nodes
        }

    def _from_others(self, record: UnixSocket) -> tuple[UnixMessage, ...]:
        """Send what the peer has not sent; returns the rest."""
        if self._keeps_partner(record):
            return record.queue
        first = len(record.queue)
        if record.link is Link.PEER:
            name = self.by_inode[record.peer].name
            while first and name and record.queue[first - 1].sender == name:
                first -= 1
        for message in record.queue[:first]:
            self.send(self._sender(message.sender), record, (message,), self._address(record))
        return record.queue[first:]

    def _from_peer(self, record: UnixSocket, messages: tuple[UnixMessage, ...]) -> None:
        if self._keeps_partner(record):
            self.send(self.making.far[record.file_id], record, messages)
        elif messages:
            peer = self.making.made[self.by_inode[record.peer].file_id]
            self.send(peer, record, messages, self._address(record))

    def _address(self, record: UnixSocket) -> bytes | str:
        """Where to send to, or to connect to, to reach a socket."""
        node = self.making.nodes.get(record.file_id)
        if node is not None:
            return node.address
        if record.name.startswith(b"\0"):
            return record.name
        raise RestoreError(
            f"UNIX socket {record.inode} has messages or connections and no name",
            reason="image-inconsistent",
        )

    def _sender(self, name: bytes) -> int:
        """A socket of that name: the one that has it, or one of ours."""
        if name in self.by_name:
            return self.making.made[self.by_name[name].file_id]
        if name not in self.senders:
            fd = self.senders[name] = self.making.plain(socket.SOCK_DGRAM)
            self.passing.append(fd)
            if name:
                self.making.names.bind_to(fd, name, "", None)
        return self.senders[name]

    def _connection_order(self) -> list[UnixSocket]:
        """Sockets to be connected by name: each before the one it is connected to."""
        waiting = {
            record.inode: record
            for record in self.mail
            if record.link in (Link.PEER, Link.OUTSIDE) and not self._keeps_partner(record)
        }
        wooed: dict[int, int] = {}
        for record in waiting.values():
            if self._counts(record):
                wooed[record.peer] = wooed.get(record.peer, 0) + 1
        ready = [record for record in waiting.values() if not wooed.get(record.inode)]
        order = []
        while ready:
            record = ready.pop()
            order.append(waiting.pop(record.inode))
            if self._counts(record) and record.peer in wooed:
                wooed[record.peer] -= 1
                if not wooed[record.peer] and record.peer in waiting:
                    ready.append(waiting[record.peer])
        if waiting:
            raise RestoreError(
                "UNIX datagram sockets are connected in a circle", reason="image-inconsistent"
            )
        return order

    def _counts(self, record: UnixSocket) -> bool:
        """Whether the peer has to wait for this connection: not if it is with itself or mutual."""
        peer = self.by_inode.get(record.peer)
        return peer is not None and peer is not record and peer.peer != record.inode

    def _connect(self, record: UnixSocket) -> None:
        files = self.making.files
        with socket.socket(fileno=os.dup(self.making.made[record.file_id])) as sock:
            if record.link is Link.PEER:
                sock.connect(self._address(self.by_inode[record.peer]))
                return

            def connect() -> None:
                # By its name as the container sees it, wherever that leads now.
                os.chroot(files.root)
                sock.connect(record.peer_name)

            try:
                with_own_directories(connect)
            except OSError as exc:
                name = os.fsdecode(record.peer_name)
                raise RestoreError(
                    f"UNIX socket {record.inode} cannot be connected to {name} again: "
                    f"{exc.strerror}",
                    reason="unix-outside",
                ) from exc

    # The end

    def close_gone(self) -> None:
        """Close the far ends that nobody has, and our own sockets."""
        for record in self.records:
            far = self.making.far.pop(record.file_id, None)
            alive = record.link is Link.PEER and record.kind != socket.SOCK_DGRAM
            partner = self.making.partners.get(record.file_id, 0)
            if far is None or alive or partner:
                continue
            if record.failed and record.kind != socket.SOCK_DGRAM:
                # What a peer leaves unread is what makes its end an error.
                with socket.socket(fileno=os.dup(self.making.made[record.file_id])) as sock:
                    sock.send(b"x", socket.MSG_DONTWAIT)
            os.close(far)
        for fd in self.passing:
            os.close(fd)
        self.passing.clear()

    def set_up(self) -> None:
        """Options and shutdowns; only now, for they stand in the way of what came before."""
        fresh: dict[int, dict[int, bytes]] = {}
        enlarged = set(self.enlarged)
        for record in self.records:
            fd = self.making.made[record.file_id]
            if record.kind not in fresh:
                with socket.socket(fileno=self.making.plain(record.kind)) as plain:
                    fresh[record.kind] = dict(read_options(plain))
            with socket.socket(socket.AF_UNIX, record.kind, fileno=os.dup(fd)) as sock:
                if fd in enlarged:
                    set_options(sock, (*record.options, _unlocked(record)))
                else:
                    set_options(sock, record.options, fresh[record.kind])
                if record.shutdown and not record.listening:
                    # A peer that is gone has shut both directions down already.
                    with contextlib.suppress(OSError):
                        sock.shutdown(record.shutdown - 1)


def _unlocked(record: UnixSocket) -> tuple[int, bytes]:
    """Whether the program itself had set the buffers' sizes, which filling has."""
    return SO_BUF_LOCK, dict(record.options).get(SO_BUF_LOCK, bytes(4))
