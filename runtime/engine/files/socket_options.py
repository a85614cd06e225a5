"""Options of level SOL_SOCKET, which every family of sockets has."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

# include/uapi/asm-generic/socket.h
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
SO_PASSSEC, SO_PEEK_OFF, SO_LOCK_FILTER, SO_SELECT_ERR_QUEUE = 34, 42, 44, 45
SO_RXQ_OVFL, SO_TIMESTAMP, SO_TIMESTAMPNS, SO_BUF_LOCK = 40, 29, 35, 72
SO_PASSPIDFD, SO_PASSRIGHTS = 76, 83  # Linux 6.5 and 6.16

_BUFFERS = {socket.SO_SNDBUF: SO_SNDBUFFORCE, socket.SO_RCVBUF: SO_RCVBUFFORCE}
# Each with the size of its value. What stands later is set later.
_OPTIONS: tuple[tuple[int, int], ...] = (
    (socket.SO_SNDBUF, 4),
    (socket.SO_RCVBUF, 4),
    (SO_BUF_LOCK, 4),
    (socket.SO_PASSCRED, 4),
    (SO_PASSSEC, 4),
    (SO_PASSPIDFD, 4),
    (SO_PASSRIGHTS, 4),
    (socket.SO_RCVLOWAT, 4),
    (socket.SO_RCVTIMEO, 16),
    (socket.SO_SNDTIMEO, 16),
    (socket.SO_PRIORITY, 4),
    (socket.SO_MARK, 4),
    (socket.SO_OOBINLINE, 4),
    (socket.SO_REUSEADDR, 4),
    (socket.SO_KEEPALIVE, 4),
    (socket.SO_BROADCAST, 4),
    (socket.SO_DONTROUTE, 4),
    (socket.SO_LINGER, 8),
    (SO_TIMESTAMP, 4),
    (SO_TIMESTAMPNS, 4),
    (SO_RXQ_OVFL, 4),
    (SO_SELECT_ERR_QUEUE, 4),
    (SO_PEEK_OFF, 4),
)
_ABSENT: set[tuple[int, int]] = set()  # (family, option) that this kernel does not have


def read_options(
    sock: socket.socket, fresh: dict[int, bytes] | None = None
) -> tuple[tuple[int, bytes], ...]:
    """The options of a socket, by number.

    Args:
        sock: The socket.
        fresh: Those of a new one of its kind; what has not changed is left out then, except for
            the sizes of buffers, which differ from host to host.
    """
    found = []
    usual = fresh or {}
    family = int(sock.family)
    for option, size in _OPTIONS:
        if (family, option) in _ABSENT:
            continue
        try:
            value = sock.getsockopt(socket.SOL_SOCKET, option, size)
        except OSError:
            # A kernel that lacks an option says so; there is nothing to restore then.
            _ABSENT.add((family, option))
            continue
        if usual.get(option) != value or option in _BUFFERS:
            found.append((int(option), value))
    return tuple(found)


def set_options(
    sock: socket.socket,
    options: Iterable[tuple[int, bytes]],
    fresh: dict[int, bytes] | None = None,
) -> None:
    """Set options as `read_options` has read them.

    Args:
        sock: The socket.
        options: In the order they were read.
        fresh: Values that it has already, as far as they are known.

    Raises:
        OSError: The kernel refused.
    """
    known = fresh or {}
    for option, value in options:
        if known.get(option) != value:
            _set_option(sock, option, value)


def _set_option(sock: socket.socket, option: int, value: bytes) -> None:
    force = _BUFFERS.get(option)
    if force is not None:
        # The kernel doubles what it is given for its own bookkeeping and shows the double.
        half = int.from_bytes(value, "little") // 2
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, force, half)
            return
        sock.setsockopt(socket.SOL_SOCKET, option, half)
        return
    sock.setsockopt(socket.SOL_SOCKET, option, value)
