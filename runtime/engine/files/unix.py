"""UNIX sockets: pairs, listeners, and the connections they have accepted; with queued data."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct

from formats.records.files import UnixSocket
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.mounts import open_inside, stat_inside
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.remote import Batch, Result
from runtime.kernel import sockdiag
from runtime.kernel.sockdiag import TCP_LISTEN, UnixInfo
from runtime.kernel.visit import visiting

SAVED = (
    (
        "sockets",
        "UNIX socket pairs of all types with what is queued, half-closed ones, options; "
        "listening UNIX sockets, by path and abstract; connections through them",
    ),
)
REFUSED = (
    ("fd-socket", "network sockets: TCP, UDP, raw, packet, netlink"),
    ("unix-outside", "a UNIX socket with a peer outside the container"),
    ("unix-pending", "connections that are not yet accepted; try again"),
    ("unix-queued-fds", "descriptors on their way through a socket"),
    ("unix-dgram", "a connected datagram socket with a name"),
    ("unix-relative-name", "a socket bound to a relative path"),
)

SO_PEEK_OFF = 42  # include/uapi/asm-generic/socket.h
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
_BUFFERS = {socket.SO_SNDBUF: SO_SNDBUFFORCE, socket.SO_RCVBUF: SO_RCVBUFFORCE}
_INT_OPTIONS = (
    socket.SO_SNDBUF,
    socket.SO_RCVBUF,
    socket.SO_PASSCRED,
    socket.SO_RCVLOWAT,
    socket.SO_PRIORITY,
    socket.SO_MARK,
    socket.SO_OOBINLINE,
)
_TIME_OPTIONS = (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO)
_RECEIVE_SIZE = 4 << 20
SOCK_CLOEXEC = socket.SOCK_CLOEXEC


class UnixSockets(Kind):
    """A UNIX socket."""

    name = "UNIX sockets: pairs, listeners, accepted connections, queued data"
    rank = 45
    record = UnixSocket

    def matches(self, table: FileTable, look: Look) -> bool:
        return stat.S_ISSOCK(look.stat.st_mode) and not look.flags & os.O_PATH

    def dump(self, table: FileTable, look: Look, file_id: int) -> UnixSocket | None:
        with socket.socket(fileno=look.duplicate()) as sock:
            if sock.family != socket.AF_UNIX:
                table.refuse(
                    look, "fd-socket", f"is a {sock.family.name} socket, which wherry cannot save"
                )
                return None
            info = _infos(table).get(look.stat.st_ino)
            if info is None:
                table.refuse(look, "unix-outside", "is a socket of another network namespace")
                return None
            if self._refused(table, look, info):
                return None
            queue = self._queue(table, look, sock, info)
            options = _options(sock)
        if queue is None:
            return None
        mode, uid, gid = self._file(table, info)
        return UnixSocket(
            file_id=file_id,
            inode=info.inode,
            kind=info.kind,
            flags=look.flags,
            listening=info.state == TCP_LISTEN,
            backlog=info.send_queue if info.state == TCP_LISTEN else 0,
            name=info.name,
            peer=info.peer,
            queue=queue,
            shutdown=info.shutdown,
            options=options,
            mode=mode,
            uid=uid,
            gid=gid,
            owner=table.owner(look),
        )

    @staticmethod
    def _refused(table: FileTable, look: Look, info: UnixInfo) -> bool:
        name = info.name
        if info.pending:
            table.refuse(
                look, "unix-pending", "has connections that are not yet accepted; try again"
            )
        elif name and not name.startswith((b"\0", b"/")):
            table.refuse(
                look, "unix-relative-name", f"is bound to the relative name {os.fsdecode(name)}"
            )
        elif info.peer and info.peer not in table.socket_inodes:
            table.refuse(look, "unix-outside", "is connected to a socket outside the container")
        elif info.kind == socket.SOCK_DGRAM and info.peer and (name or _named(table, info.peer)):
            table.refuse(look, "unix-dgram", "is a connected datagram socket with a name")
        else:
            return False
        return True

    @staticmethod
    def _file(table: FileTable, info: UnixInfo) -> tuple[int, int, int]:
        """Mode and owner of the socket's file; mode 0 when the name is gone or taken."""
        if not info.name.startswith(b"/"):
            return 0, 0, 0
        try:
            status = stat_inside(table.root, os.fsdecode(info.name))
        except OSError:
            return 0, 0, 0
        if not stat.S_ISSOCK(status.st_mode):
            return 0, 0, 0
        return status.st_mode, status.st_uid, status.st_gid

    @staticmethod
    def _queue(
        table: FileTable, look: Look, sock: socket.socket, info: UnixInfo
    ) -> tuple[bytes, ...] | None:
        if info.state == TCP_LISTEN or not info.receive_queue:
            return ()
        messages = []
        before = sock.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
        sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
        try:
            while True:
                flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
                try:
                    data, ancillary, _, _ = sock.recvmsg(_RECEIVE_SIZE, 4096, flags)
                except BlockingIOError:
                    break
                if _close_passed(ancillary):
                    table.refuse(look, "unix-queued-fds", "has descriptors waiting to be received")
                    return None
                if not data:
                    break
                messages.append(data)
        finally:
            sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, before)
        return (b"".join(messages),) if info.kind == socket.SOCK_STREAM else tuple(messages)

    # Restore

    def restore(self, files: RestoredFiles, record: UnixSocket) -> int:
        def make() -> dict[int, int]:
            # A socket belongs to the network namespace that it was made in.
            with visiting(files.init.pid, "net"):
                return _make_all(files)

        return files.once("unix", make)[record.file_id]


def _infos(table: FileTable) -> dict[int, UnixInfo]:
    return table.once("unix", lambda: sockdiag.unix_sockets(table.context.target.init_pid))


def _named(table: FileTable, inode: int) -> bool:
    info = _infos(table).get(inode)
    return info is not None and bool(info.name)


def _close_passed(ancillary: list[tuple[int, int, bytes]]) -> bool:
    """Close descriptors that peeking has duplicated into us; whether there were any."""
    passed = [
        fd
        for level, kind, data in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for fd in struct.unpack(f"{len(data) // 4}i", data)
    ]
    for fd in passed:
        os.close(fd)
    return bool(passed)


def _options(sock: socket.socket) -> tuple[tuple[int, bytes], ...]:
    found = []
    for option in _INT_OPTIONS:
        # A kernel that lacks an option says so; there is nothing to restore then.
        with contextlib.suppress(OSError):
            found.append((int(option), sock.getsockopt(socket.SOL_SOCKET, option, 4)))
    found += [(int(o), sock.getsockopt(socket.SOL_SOCKET, o, 16)) for o in _TIME_OPTIONS]
    return tuple(found)


# Making all UNIX sockets of a container, because they come in pairs


def _make_all(files: RestoredFiles) -> dict[int, int]:
    records = files.all_of(UnixSocket)
    by_inode = {record.inode: record for record in records}
    made: dict[int, int] = {}
    for name in {r.name for r in records if r.name}:
        _make_named(files, name, [r for r in records if r.name == name], by_inode, made)
    for record in records:
        if record.file_id in made:
            continue
        if record.peer or record.shutdown == 3:
            peer = by_inode.get(record.peer)
            first, second = socket.socketpair(socket.AF_UNIX, record.kind)
            made[record.file_id] = first.detach()
            files.unix_senders[record.file_id] = second.detach()
            if peer is not None and peer is not record:
                made[peer.file_id] = files.unix_senders.pop(record.file_id)
                files.unix_senders[record.file_id] = os.dup(made[peer.file_id])
                files.unix_senders[peer.file_id] = os.dup(made[record.file_id])
        else:
            made[record.file_id] = socket.socket(socket.AF_UNIX, record.kind).detach()
    for record in records:
        _fill(files, record)
    # Only now: filling enlarges buffers, and a shut-down socket takes no more data.
    for record in records:
        _set_options(record, made[record.file_id])
        _shut_down(record, made[record.file_id])
    for fd in files.unix_senders.values():
        os.close(fd)
    files.unix_senders.clear()
    return made


def _make_named(
    files: RestoredFiles,
    name: bytes,
    records: list[UnixSocket],
    by_inode: dict[int, UnixSocket],
    made: dict[int, int],
) -> None:
    """Bind *name* inside the container, and connect whoever was connected through it.

    The init does it, for the name must be looked up, and remembered, as the container sees it.
    """
    connected = [r for r in records if r.peer or r.shutdown == 3]
    bound = [r for r in records if r not in connected]
    kind = records[0].kind
    address = struct.pack("H", socket.AF_UNIX) + name + (b"" if name[:1] == b"\0" else b"\0")
    batch = Batch()
    if name.startswith(b"/"):
        batch.call("unlink", name + b"\0", may_fail=True)
    sock = batch.call("socket", socket.AF_UNIX, kind | SOCK_CLOEXEC, 0)
    batch.call("bind", sock, address, len(address))
    listening = any(r.listening for r in bound)
    if connected or listening:
        backlog = max([r.backlog for r in bound], default=1) if listening else 1
        batch.call("listen", sock, max(backlog, 1) if connected else backlog)
    pairs: list[tuple[UnixSocket, Result, Result]] = []
    for record in connected:
        client = batch.call("socket", socket.AF_UNIX, kind | SOCK_CLOEXEC, 0)
        batch.call("connect", client, address, len(address))
        server = batch.call("accept4", sock, 0, 0, SOCK_CLOEXEC)
        pairs.append((record, server, client))
    answers = files.init.run(batch)
    if bound:
        made[bound[0].file_id] = files.take_from_init(answers[sock])
    else:
        os.close(files.take_from_init(answers[sock]))
    for record, server, client in pairs:
        made[record.file_id] = files.take_from_init(answers[server])
        other = files.take_from_init(answers[client])
        peer = by_inode.get(record.peer)
        files.unix_senders[record.file_id] = os.dup(other)
        if peer is not None:
            made[peer.file_id] = other
            files.unix_senders[peer.file_id] = os.dup(made[record.file_id])
        else:
            os.close(other)
    _restore_file(files, name, next((r for r in records if r.mode), None))


def _restore_file(files: RestoredFiles, name: bytes, record: UnixSocket | None) -> None:
    if not name.startswith(b"/"):
        return
    if record is None:
        with contextlib.suppress(FileNotFoundError):
            batch = Batch()
            batch.call("unlink", name + b"\0")
            files.init.run(batch)
        return
    fd = open_inside(files.root, os.fsdecode(name), os.O_PATH | os.O_NOFOLLOW)
    try:
        os.chown(f"/proc/self/fd/{fd}", record.uid, record.gid)
        os.chmod(f"/proc/self/fd/{fd}", record.mode & 0o7777)
    finally:
        os.close(fd)


def _fill(files: RestoredFiles, record: UnixSocket) -> None:
    if record.queue:
        with socket.socket(fileno=os.dup(files.unix_senders[record.file_id])) as sender:
            total = sum(len(message) for message in record.queue)
            # Twice the content and its bookkeeping; the true size is set afterwards.
            sender.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 4 * total + (1 << 20))
            sender.setblocking(False)
            for message in record.queue:
                sender.sendall(message)


def _set_options(record: UnixSocket, fd: int) -> None:
    with socket.socket(fileno=os.dup(fd)) as sock:
        for option, value in record.options:
            _set_option(sock, option, value)


def _set_option(sock: socket.socket, option: int, value: bytes) -> None:
    force = _BUFFERS.get(option)
    if force is not None:
        # The kernel doubles what it is given for its own bookkeeping and shows the double.
        sock.setsockopt(socket.SOL_SOCKET, force, int.from_bytes(value, "little") // 2)
        return
    sock.setsockopt(socket.SOL_SOCKET, option, value)


def _shut_down(record: UnixSocket, fd: int) -> None:
    if not record.shutdown or record.listening:
        return
    # A peer that is gone has shut both directions down already.
    with socket.socket(fileno=os.dup(fd)) as sock, contextlib.suppress(OSError):
        sock.shutdown(record.shutdown - 1)
