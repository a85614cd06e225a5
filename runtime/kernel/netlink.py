"""netlink(7): requests, dumps and attributes, for whichever protocol.

A message that a dump brings has the form in which the kernel would take it back, so most of what
a network namespace holds is kept as it came and sent again; no table of attribute names is needed
for that.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self

from runtime.kernel.visit import visiting_path

# include/uapi/linux/netlink.h
NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_XFRM, NETLINK_NETFILTER = 0, 4, 6, 12
SOL_NETLINK = 270
NETLINK_CAP_ACK, NETLINK_EXT_ACK = 10, 11
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE = 1, 2, 3
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF

_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE: Final = struct.Struct("=HH")  # struct nlattr
_RECEIVE_SIZE: Final = 1 << 18
_BUFFER_SIZE: Final = 4 << 20
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # include/uapi/asm-generic/socket.h

Attributes = tuple[tuple[int, bytes], ...]


class Message(NamedTuple):
    """One message: its type, its flags and what follows the header."""

    kind: int
    flags: int
    body: bytes


class Netlink:
    """A netlink socket of ours in a network namespace.

    Args:
        protocol: ``NETLINK_*``.
        path: The namespace, as a path such as ``/proc/PID/ns/net``; None for our own.

    Raises:
        OSError: No such namespace, or no privilege over it.

    Source: man 7 netlink, include/uapi/linux/netlink.h.
    """

    def __init__(self, protocol: int, path: str | None = None) -> None:
        with contextlib.ExitStack() as there:
            if path is not None:
                there.enter_context(visiting_path(path, "net"))
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
            )
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        with contextlib.suppress(OSError):  # a namespace of an unprivileged user
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_SIZE)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_SIZE)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def dump(self, kind: int, body: bytes) -> list[Message]:
        """Every object that the kernel lists for a request.

        Raises:
            OSError: The kernel refused; EOPNOTSUPP when it lacks the interface.
        """
        while True:
            self._send([(kind, NLM_F_DUMP, body)])
            found = list(self._answers())
            if not any(message.flags & NLM_F_DUMP_INTR for message in found):
                return found

    def ask(self, kind: int, body: bytes, flags: int = 0) -> list[Message]:
        """Make one request; returns what comes before its acknowledgement.

        Raises:
            OSError: The kernel refused, with its own words if it had any.
        """
        self._send([(kind, flags | NLM_F_ACK, body)])
        return list(self._answers())

    def transact(self, messages: Iterable[tuple[int, int, bytes]], *, acks: int) -> None:
        """Send messages as one packet and wait for *acks* acknowledgements.

        Raises:
            OSError: The kernel refused one; the first refusal.
        """
        self._send(messages)
        for _ in range(acks):
            for _ in self._answers():
                pass

    def _send(self, messages: Iterable[tuple[int, int, bytes]]) -> None:
        packet = b""
        for kind, flags, body in messages:
            self._sequence += 1
            size = _HEADER.size + len(body)
            header = _HEADER.pack(size, kind, flags | NLM_F_REQUEST, self._sequence, 0)
            packet += header + body + bytes(-size % 4)
        if len(packet) > _BUFFER_SIZE // 4:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 4 * len(packet))
        self._socket.send(packet)

    def _answers(self) -> Iterator[Message]:
        while True:
            data = self._socket.recv(_RECEIVE_SIZE)
            while data:
                length, kind, flags, _, _ = _HEADER.unpack_from(data)
                body = data[_HEADER.size : length]
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    _raise_error(kind, flags, body)
                    return
                if kind != NLMSG_NOOP:
                    yield Message(kind, flags, body)
                data = data[length + -length % 4 :]


def _raise_error(kind: int, flags: int, body: bytes) -> None:
    """Raise what an acknowledgement or the end of a dump reports, if it is an error."""
    if len(body) < 4:
        return
    (error,) = struct.unpack_from("=i", body)
    if error >= 0:
        return
    words = ""
    if flags & NLM_F_ACK_TLVS:
        start = 4
        if kind == NLMSG_ERROR:  # the header of the request, and all of it unless it is capped
            (size,) = struct.unpack_from("=I", body, 4)
            start += _HEADER.size if flags & NLM_F_CAPPED else size + -size % 4
        said = dict(attributes(body[start:])).get(NLMSGERR_ATTR_MSG, b"")
        words = said.rstrip(b"\0").decode(errors="replace")
    text = os.strerror(-error)
    raise OSError(-error, f"{text} ({words})" if words else text)


def attributes(data: bytes, mask: int = NLA_TYPE_MASK) -> Attributes:
    """Type and value of each attribute.

    Args:
        data: Attributes one after the other.
        mask: Of the types; the default takes their flag bits off.

    Raises:
        ValueError: An attribute is longer than what is left.
    """
    found = []
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            raise ValueError(f"netlink attribute {kind} of {length} bytes in {len(data)}")
        found.append((kind & mask, data[_ATTRIBUTE.size : length]))
        data = data[length + -length % 4 :]
    return tuple(found)


def pack_attributes(given: Iterable[tuple[int, bytes]]) -> bytes:
    """The bytes of attributes, in their order."""
    parts = []
    for kind, value in given:
        size = _ATTRIBUTE.size + len(value)
        parts.append(_ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4))
    return b"".join(parts)


def u32(value: int) -> bytes:
    """An attribute's value of 32 bits, in the host's byte order."""
    return struct.pack("=I", value)


def text(value: str) -> bytes:
    """An attribute's value that is a string of C."""
    return os.fsencode(value) + b"\0"
