"""UNIX sockets: what each is, what it is connected to, what waits in it.

The modules beside this one: `unix_queue` reads what waits, `unix_names` finds and makes the files
of names, `unix_make` makes the sockets with their connections, `unix_fill` puts in what waited.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
from collections.abc import Iterable

from formats.records.unix import (
    Link,
    UnixCredentials,
    UnixMessage,
    UnixSocket,
)
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.socket_options import read_options
from runtime.engine.files.table import FileTable
from runtime.engine.files.unix_fill import fill_all
from runtime.engine.files.unix_make import make_all
from runtime.engine.files.unix_names import locate
from runtime.engine.files.unix_pending import dump_pending
from runtime.engine.files.unix_queue import Peeked, peek_queue
from runtime.engine.peer_pids import PeerPids
from runtime.engine.sandbox.kind import Scope
from runtime.kernel import sockdiag
from runtime.kernel.sockdiag import TCP_ESTABLISHED, TCP_LISTEN, UnixInfo
from runtime.kernel.socket_calls import peer_groups
from runtime.kernel.visit import visiting_path

SAVED = (
    (
        "UNIX sockets",
        "all types: pairs, listening, connected, with connections not yet accepted; by path "
        "(absolute, relative, removed, renamed), abstract and without a name; half-closed ones; "
        "what is queued, with message borders, senders, credentials, out-of-band data and "
        "descriptors, also sockets in sockets; options; the peer's credentials",
    ),
)
REFUSED = (
    ("fd-socket", "sockets of other families: AF_ALG, vsock, XDP, CAN, ..."),
    (
        "unix-outside",
        "a UNIX socket with a peer outside the container; a datagram socket with "
        "`--ext-unix-sk` connects to it again",
    ),
    (
        "unix-pending-data",
        "descriptors, or on kernels without BPF any data, sent into a connection that is not yet "
        "accepted; try again",
    ),
    ("unix-namespaces", "a UNIX socket connected to one of another network namespace"),
    ("unix-error", "a socket with messages and an error that is not yet reported; try again"),
)

_UCRED = struct.Struct("iII")
_NO_ID = 2**32 - 1


class UnixSockets(Kind):
    """A UNIX socket."""

    name = "UNIX sockets"
    rank = 45
    record = UnixSocket

    def matches(self, table: FileTable, look: Look) -> bool:
        return stat.S_ISSOCK(look.stat.st_mode) and not look.flags & os.O_PATH

    def inside(self, table: FileTable, look: Look) -> Iterable[Look]:
        info = _infos(table).get(look.stat.st_ino)
        if info is None or not _may_have_messages(info):
            return
        queue: list[Peeked] = table.once(
            ("unix-queue", info.inode), lambda: _peek(table, look, info)
        )
        for message in queue:
            for fd in message.fds:
                owner = look.where or table.context.subject(look.pid, f"fd {look.fd}")
                yield table.held(fd, f"a descriptor queued in {owner}")

    def dump(self, table: FileTable, look: Look, file_id: int) -> UnixSocket | None:
        info = _infos(table).get(look.stat.st_ino)
        if info is None:
            _refuse_unknown(table, look)
            return None
        with socket.socket(socket.AF_UNIX, info.kind, fileno=look.duplicate()) as sock:
            link = self._link(table, look, sock, info)
            pending = dump_pending(table, look, sock, info.pending)
            if link is None or pending is None:
                return None
            place = locate(table, sock, info.name)
            gone = link in (Link.GONE, Link.OUTSIDE)
            return UnixSocket(
                file_id=file_id,
                inode=info.inode,
                kind=info.kind,
                flags=look.flags,
                listening=info.state == TCP_LISTEN,
                backlog=info.send_queue if info.state == TCP_LISTEN else 0,
                name=info.name,
                path=place.path,
                mount_id=place.mount_id,
                inner=place.inner,
                hidden=place.hidden,
                holds_name=_holds_name(table, info),
                link=link,
                peer=info.peer or 0 if link is Link.PEER else 0,
                peer_name=_peer_name(sock) if gone else b"",
                credentials=_credentials(table, look, sock),
                pending=pending,
                queue=tuple(self._message(table, m) for m in table.made(_queue_key(info)) or ()),
                shutdown=info.shutdown,
                failed=gone and _has_failed(sock),
                options=read_options(sock, _fresh_options(table, info.kind)),
                mode=place.mode,
                uid=place.uid,
                gid=place.gid,
                socket_uid=look.stat.st_uid,
                socket_gid=look.stat.st_gid,
                ns_id=_home(table, info.inode).ns_id,
                owner=table.owner(look),
            )

    @staticmethod
    def _link(table: FileTable, look: Look, sock: socket.socket, info: UnixInfo) -> Link | None:
        if info.peer is None:
            return Link.NONE
        if info.peer in table.socket_inodes:
            if _home(table, info.peer) is _home(table, info.inode):
                return Link.PEER
            table.refuse(
                look, "unix-namespaces", "is connected to a socket of another network namespace"
            )
            return None
        if info.inode in _pending_clients(table):
            return Link.PENDING
        if info.peer == 0 and (info.kind == socket.SOCK_DGRAM or info.shutdown == 3):
            return Link.GONE
        if info.kind == socket.SOCK_DGRAM and table.context.target.options.ext_unix_sk:
            if _peer_name(sock):
                return Link.OUTSIDE
        elif info.kind == socket.SOCK_DGRAM:
            table.refuse(
                look,
                "unix-outside",
                "is connected to a socket outside the container; --ext-unix-sk connects it again",
            )
            return None
        table.refuse(look, "unix-outside", "is connected to a socket outside the container")
        return None

    @staticmethod
    def _message(table: FileTable, message: Peeked) -> UnixMessage:
        credentials = None
        if message.credentials is not None:
            pid, uid, gid = message.credentials
            credentials = UnixCredentials(table.context.ns_pids.get(pid, 0), uid, gid)
        files = (table.file_id(os.getpid(), fd) for fd in message.fds)
        return UnixMessage(
            data=message.data,
            files=tuple(file_id for file_id in files if file_id is not None),
            credentials=credentials,
            sender=message.sender,
            urgent=message.urgent,
        )

    # Restore

    def references(self, record: UnixSocket) -> Iterable[int]:
        return [file_id for message in record.queue for file_id in message.files]

    def restore(self, files: RestoredFiles, record: UnixSocket) -> int:
        key = ("unix", record.ns_id)
        return files.once(key, lambda: make_all(files, record.ns_id)).made[record.file_id]

    def fill(self, files: RestoredFiles, record: UnixSocket) -> None:
        making = files.made(("unix", record.ns_id))
        files.once(("unix-fill", record.ns_id), lambda: fill_all(making))


def _infos(table: FileTable) -> dict[int, UnixInfo]:
    return table.once("unix", lambda: {inode: i for inode, (i, _) in _all(table).items()})


def _home(table: FileTable, inode: int) -> Scope:
    """The network namespace of a socket."""
    return _all(table)[inode][1]


def _all(table: FileTable) -> dict[int, tuple[UnixInfo, Scope]]:
    return table.once("unix-all", lambda: _collect(table))


def _collect(table: FileTable) -> dict[int, tuple[UnixInfo, Scope]]:
    return {
        inode: (info, scope)
        for scope in table.context.scopes.values()
        if scope.kind == "net"
        for inode, info in sockdiag.unix_sockets(scope.path).items()
    }


def _refuse_unknown(table: FileTable, look: Look) -> None:
    with socket.socket(fileno=look.duplicate()) as sock:
        family = sock.family
    if family == socket.AF_UNIX:
        table.refuse(look, "unix-outside", "is a socket of another network namespace")
    else:
        name = getattr(family, "name", f"family-{family}")
        table.refuse(look, "fd-socket", f"is a {name} socket, which wherry cannot save")


# Queues


def _queue_key(info: UnixInfo) -> tuple[str, int]:
    return "unix-queue", info.inode


def _may_have_messages(info: UnixInfo) -> bool:
    if info.kind == socket.SOCK_DGRAM:
        return True
    return info.state == TCP_ESTABLISHED and bool(
        info.receive_queue or info.kind == socket.SOCK_SEQPACKET
    )


def _peek(table: FileTable, look: Look, info: UnixInfo) -> list[Peeked]:
    with socket.socket(socket.AF_UNIX, info.kind, fileno=look.duplicate()) as sock:
        if info.kind != socket.SOCK_STREAM:
            events = _events(sock)
            if events & select.POLLERR:
                # A look at the messages would be told of the error, and nobody else after it.
                if events & select.POLLIN and info.receive_queue:
                    table.refuse(
                        look, "unix-error", "has an error that is not yet reported; try again"
                    )
                return []
            if not events & select.POLLIN:
                return []
        return peek_queue(sock, info.kind, info.receive_queue)


def _events(sock: socket.socket) -> int:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return dict(poller.poll(0)).get(sock.fileno(), 0)


def _has_failed(sock: socket.socket) -> bool:
    return bool(_events(sock) & select.POLLERR)


# Connections


def _fresh_options(table: FileTable, kind: int) -> dict[int, bytes]:
    def read() -> dict[int, bytes]:
        with (
            visiting_path(f"/proc/{table.context.target.init_pid}/ns/net", "net"),
            socket.socket(socket.AF_UNIX, kind) as plain,
        ):
            return dict(read_options(plain))

    return table.once(("unix-options", kind), read)


def _pending_clients(table: FileTable) -> set[int]:
    return table.once(
        "unix-pending",
        lambda: {
            client
            for inode in table.socket_inodes & _infos(table).keys()
            for client in _infos(table)[inode].pending
        },
    )


def _peer_name(sock: socket.socket) -> bytes:
    try:
        name = sock.getpeername()
    except OSError as exc:
        if exc.errno == errno.ENOTCONN:
            return b""
        raise
    return name if isinstance(name, bytes) else os.fsencode(name or "")


def _holds_name(table: FileTable, info: UnixInfo) -> bool:
    """Whether an abstract name leads to this socket, or the name was the listening one's."""
    if not info.name.startswith(b"\0"):
        return True
    if info.kind == socket.SOCK_DGRAM or info.state != TCP_ESTABLISHED:
        return True
    home = _home(table, info.inode)
    first, others = table.once("unix-by-name", lambda: _by_name(table))[home.ns_id, info.name]
    if others or first != info.inode:
        return False
    held: bool = table.once(
        ("unix-held", home.ns_id, info.kind, info.name),
        lambda: _is_taken(home.path, info.kind, info.name),
    )
    return held


def _by_name(table: FileTable) -> dict[tuple[int, bytes], tuple[int, bool]]:
    """For each name a connected socket with it, and whether there is one that is not connected."""
    found: dict[tuple[int, bytes], tuple[int, bool]] = {}
    for info, scope in _all(table).values():
        key = (scope.ns_id, info.name)
        first, others = found.get(key, (info.inode, False))
        found[key] = (min(first, info.inode), others or info.state != TCP_ESTABLISHED)
    return found


def _is_taken(home: str, kind: int, name: bytes) -> bool:
    with visiting_path(home, "net"), socket.socket(socket.AF_UNIX, kind) as probe:
        try:
            probe.bind(name)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                return True
            raise
        return False


def _credentials(table: FileTable, look: Look, sock: socket.socket) -> UnixCredentials | None:
    pid, uid, gid = _UCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    if uid == _NO_ID:
        return None
    inside = table.context.ns_pids.get(pid)
    if inside is None:
        # The dead keep their number, but only in the eyes of those who live where they did.
        inside = table.once("peer-pids", lambda: PeerPids(table)).of(look) if pid else 0
    return UnixCredentials(inside, uid, gid, peer_groups(sock.fileno()))
