"""UNIX sockets, unix(7), with what is on its way through them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from formats.records.codec import record
from formats.records.files import Owner


class Link(enum.StrEnum):
    """What a socket is connected to."""

    NONE = "none"
    PEER = "peer"  # another socket of the image
    PENDING = "pending"  # a listening socket of the image that has not accepted yet
    GONE = "gone"  # a socket that has been closed
    OUTSIDE = "outside"  # a datagram socket outside of the container, by its name


@dataclass(frozen=True, slots=True)
class UnixCredentials:
    """Who made a connection or sent a message, as SO_PEERCRED and SCM_CREDENTIALS tell it.

    Attributes:
        pid: In the container's namespace; 0 for a process outside of it.
        uid: Effective user.
        gid: Effective group.
        groups: Supplementary groups; not known for messages.
    """

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class UnixMessage:
    """What waits in a socket: a datagram, or a stretch of a stream.

    Attributes:
        data: Its bytes.
        files: File records of the descriptors that travel with its first byte.
        credentials: Of the sender, or None where the kernel kept none.
        sender: Name of the sending datagram socket; empty for none.
        urgent: Whether it is the out-of-band byte of a stream (MSG_OOB).
    """

    data: bytes
    files: tuple[int, ...] = ()
    credentials: UnixCredentials | None = None
    sender: bytes = b""
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class UnixPending:
    """A connection that a listening socket has not accepted yet.

    Attributes:
        client: Inode of the socket that is connected to it; 0 if that is closed.
        name: Of the client, as far as it is known; matters for one that is closed.
        credentials: Of whoever connected.
        queue: What waits in it, oldest first.
    """

    client: int
    name: bytes = b""
    credentials: UnixCredentials | None = None
    queue: tuple[UnixMessage, ...] = ()


@record("file-unix")
@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A UNIX socket.

    Attributes:
        file_id: Id.
        inode: Socket inode number at the freeze, which peers name.
        kind: SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET.
        flags: open(2) flags (O_NONBLOCK, O_ASYNC).
        listening: Whether listen(2) was called.
        backlog: Of a listening socket.
        name: ``sun_path`` as bound, with a leading NUL for an abstract one; empty for none.
        path: Where the file of a name is now, in the container; empty when it has lost its name.
        holds_name: Whether others find the socket by its abstract name; a connection that was
            accepted shows the name and does not hold it.
        link: What it is connected to.
        peer: Inode of the connected socket, or 0.
        peer_name: Name of a peer that is gone or outside.
        credentials: SO_PEERCRED; of a listening socket, those it was made to listen with.
        pending: Connections that are not accepted yet, oldest first.
        queue: Messages waiting to be read, oldest first.
        shutdown: 1 no more reads, 2 no more writes, 3 both.
        failed: Whether the next call gets ECONNRESET: the peer closed without reading everything.
        options: SOL_SOCKET options by number.
        mode: Permission bits of the socket's file.
        uid: Owner of the socket's file.
        gid: Group of the socket's file.
        socket_uid: Owner of the socket itself, as fstat(2) shows it.
        socket_gid: Group of the socket itself.
        owner: SIGIO's, or None.
        ns_id: Network namespace that it belongs to; 0 for the sandbox's.
        mount_id: The `formats.records.mounts.MountPoint` that its file is on, where the path alone
            does not tell; else 0.
        inner: Then, the file's path relative to the top of that mount.
        hidden: Then, whether something is mounted over it.
    """

    file_id: int
    inode: int
    kind: int
    flags: int
    listening: bool
    backlog: int
    name: bytes
    path: str
    holds_name: bool
    link: Link
    peer: int
    peer_name: bytes
    credentials: UnixCredentials | None
    pending: tuple[UnixPending, ...]
    queue: tuple[UnixMessage, ...]
    shutdown: int
    failed: bool
    options: tuple[tuple[int, bytes], ...]
    mode: int = 0
    uid: int = 0
    gid: int = 0
    socket_uid: int = 0
    socket_gid: int = 0
    owner: Owner | None = None
    ns_id: int = 0
    mount_id: int = 0
    inner: str = ""
    hidden: bool = False
