"""What waits in a UNIX socket, read without taking it.

Everything is peeked at (MSG_PEEK) at chosen offsets (SO_PEEK_OFF), so that nothing moves. Peeking
at a message with descriptors gives us duplicates of these: for a description that is nowhere else,
ours are the ones that the dump looks at.

In a stream the places matter at which a read stops: behind bytes that came with descriptors, where
the sender's credentials change, before the out-of-band byte.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from runtime.engine.files.socket_options import SO_PASSRIGHTS, SO_PEEK_OFF
from runtime.kernel.socket_calls import peek_whole_buffers

SIOCATMARK = 0x8905  # include/uapi/asm-generic/sockios.h
_UCRED = struct.Struct("iII")  # struct ucred, include/linux/socket.h
_NOBODY = 65534  # the uid that stands for none, sysctl kernel.overflowuid
_FIRST_SIZE = 256 << 10
_CONTROL_SIZE = 4096
_OPTIONS = (
    (socket.SO_PASSCRED, 1),
    (socket.SO_OOBINLINE, 1),
    (SO_PASSRIGHTS, 1),
    (SO_PEEK_OFF, 0),
)
_PEEK = socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


@dataclass(frozen=True, slots=True)
class Peeked:
    """A message as it waits.

    Attributes:
        data: Its bytes.
        fds: Descriptors of ours for those that travel with it.
        credentials: (pid in our namespace, uid, gid), or None where the kernel kept none.
        sender: Name of the sending datagram socket.
        urgent: Whether it is the out-of-band byte.
    """

    data: bytes
    fds: tuple[int, ...] = ()
    credentials: tuple[int, int, int] | None = None
    sender: bytes = b""
    urgent: bool = False


def peek_queue(sock: socket.socket, kind: int, waiting: int) -> list[Peeked]:
    """All messages that wait in a socket, oldest first.

    Args:
        sock: The socket; its flags and options come back as they were.
        kind: SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET.
        waiting: Bytes in a stream.
    """
    if kind == socket.SOCK_STREAM:
        if not waiting:
            return []
        urgent = _urgent_byte(sock)
        with _peeking(sock):
            messages = list(_stream(sock, waiting))
            return messages if urgent is None else _mark_urgent(sock, messages, urgent)
    with _peeking(sock):
        return list(_datagrams(sock))


@contextlib.contextmanager
def _peeking(sock: socket.socket) -> Iterator[None]:
    """Options under which a peek shows everything there is."""
    wanted = (
        (socket.SO_PASSCRED, 1),
        (socket.SO_OOBINLINE, 1),
        (SO_PASSRIGHTS, 1),
        (SO_PEEK_OFF, 0),
    )
    before = []
    try:
        for option, value in wanted:
            try:
                found = sock.getsockopt(socket.SOL_SOCKET, option)
                if found != value:
                    sock.setsockopt(socket.SOL_SOCKET, option, value)
                    before.append((option, found))
            except OSError:
                if option != SO_PASSRIGHTS:  # before Linux 6.16 descriptors always pass
                    raise
        if not any(option == SO_PEEK_OFF for option, _ in before):
            before.append((SO_PEEK_OFF, 0))  # every peek moves it
        yield
    finally:
        for option, value in before:
            sock.setsockopt(socket.SOL_SOCKET, option, value)


def _peek(sock: socket.socket, offset: int, size: int) -> tuple[Peeked | None, int]:
    """The message at *offset* bytes from the start and the flags of the call; None for no more."""
    sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, offset)
    try:
        data, ancillary, flags, address = sock.recvmsg(size, _CONTROL_SIZE, _PEEK)
    except BlockingIOError:
        return None, 0
    fds: tuple[int, ...] = ()
    credentials = None
    for level, kind, content in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_RIGHTS:
            fds = struct.unpack(f"{len(content) // 4}i", content)
        elif kind == socket.SCM_CREDENTIALS:
            credentials = _UCRED.unpack(content)
    if credentials is None:
        return None, flags  # the end of a closed connection: a message has some, if only nobody's
    known = None if credentials[:2] == (0, _NOBODY) else credentials
    return Peeked(data, fds, known, _name(address)), flags


def _name(address: object) -> bytes:
    if isinstance(address, bytes):
        return address
    return os.fsencode(address) if isinstance(address, str) else b""


def _datagrams(sock: socket.socket) -> Iterator[Peeked]:
    offset, size = 0, _FIRST_SIZE
    while True:
        message, flags = _peek(sock, offset, size)
        if message is None:
            return
        if flags & socket.MSG_TRUNC:
            _close(message.fds)
            size *= 4
            continue
        yield message
        offset += len(message.data)


def _stream(sock: socket.socket, waiting: int) -> Iterator[Peeked]:
    offset = 0
    while offset < waiting:
        message, _ = _peek(sock, offset, waiting - offset)
        if message is None or not message.data:
            return
        first = 0
        if message.fds:
            # They came with the last buffer of these.
            sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, offset)
            first = peek_whole_buffers(sock.fileno(), len(message.data))
        if first:
            yield replace(message, data=message.data[:first], fds=())
        yield replace(message, data=message.data[first:])
        offset += len(message.data)


def _urgent_byte(sock: socket.socket) -> bytes | None:
    inline = sock.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)
    if inline:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 0)
    try:
        return sock.recv(1, socket.MSG_OOB | _PEEK) or None
    except OSError:
        return None  # none there, or a kernel without
    finally:
        if inline:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def _mark_urgent(sock: socket.socket, messages: list[Peeked], urgent: bytes) -> list[Peeked]:
    """Split off the out-of-band byte: it begins a message, for no read goes beyond it."""
    at_head = struct.unpack("i", fcntl.ioctl(sock, SIOCATMARK, bytes(4)))[0]
    index = 0
    if not at_head:
        candidates = [
            i
            for i in range(1, len(messages))
            if messages[i].data[:1] == urgent and not messages[i - 1].fds
        ]
        # Credentials that change stop a read as well; where they do not, it was the mark.
        same = [i for i in candidates if messages[i].credentials == messages[i - 1].credentials]
        index = (same or candidates or [0])[0]
    found = messages[index]
    split = [replace(found, data=found.data[:1], urgent=True)]
    if found.data[1:]:
        split.append(replace(found, data=found.data[1:], fds=()))
    return messages[:index] + split + messages[index + 1 :]


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
