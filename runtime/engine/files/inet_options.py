"""Options of Internet sockets: only what differs from a fresh socket of the same kind is saved.

So an option that the program never touched follows the host that it runs on, and a socket costs
little room.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from formats.records.inet import InetOption, InetSocket
from runtime.errors import RestoreError
from runtime.kernel import inet_options as io
from runtime.kernel.inet_options import Known
from runtime.kernel.socket_filter import set_filter

_FORCED = {io.SO_SNDBUF: io.SO_SNDBUFFORCE, io.SO_RCVBUF: io.SO_RCVBUFFORCE}

# What has to stand before bind(2) or listen(2), beside SO_REUSEADDR, which may change afterwards
_EARLY = (
    (io.SOL_SOCKET, io.SO_REUSEPORT),
    (io.SOL_IP, io.IP_TRANSPARENT),
    (io.SOL_IPV6, io.IPV6_TRANSPARENT),
    (io.SOL_IPV6, io.IPV6_V6ONLY),
)
# What restoring changes for its own ends; it must end as it was also where it was the default
_BORROWED = (
    (io.SOL_SOCKET, io.SO_REUSEADDR),
    (io.SOL_IP, io.IP_FREEBIND),
    (io.SOL_IPV6, io.IPV6_FREEBIND),
    (io.SOL_SOCKET, io.SO_SNDBUF),
    (io.SOL_SOCKET, io.SO_RCVBUF),
    (io.SOL_SOCKET, io.SO_BUF_LOCK),
    (io.SOL_TCP, io.TCP_CORK),
)


@dataclass(slots=True)
class _Kind:
    """The options of one kind of socket, with the values of a fresh one."""

    defaults: dict[Known, bytes]
    known: dict[tuple[int, int], Known] = field(init=False)
    when_idle: list[tuple[Known, bytes]] = field(init=False)
    when_connected: list[tuple[Known, bytes]] = field(init=False)

    def __post_init__(self) -> None:
        self.known = {known[:2]: known for known in self.defaults}
        self.when_idle = list(self.defaults.items())
        self.when_connected = [p for p in self.when_idle if not io.is_idle_option(p[0])]


class OptionTable:
    """What fresh sockets of a network namespace have; use it while visiting the namespace."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[int, int, int], _Kind] = {}

    def _of(self, sock: socket.socket) -> _Kind:
        key = (sock.family, sock.type, sock.proto)
        if key not in self._kinds:
            with _fresh(*key) as fresh:
                values = {k: io.read_option(fresh, k) or b"" for k in io.options_of(fresh)}
            self._kinds[key] = _Kind(values)
        return self._kinds[key]

    def read(self, sock: socket.socket, *, idle: bool) -> tuple[InetOption, ...]:
        """The options of a socket that are not a fresh one's.

        Args:
            sock: Ours, or a duplicate of a task's.
            idle: Whether it is neither connected nor connecting.
        """
        kind = self._of(sock)
        # About eighty system calls for each socket: nothing else may be slow here.
        found, get = [], sock.getsockopt
        for (level, option, size), default in kind.when_idle if idle else kind.when_connected:
            try:
                value = get(level, option, size)
            except OSError:
                continue
            if value != default:
                found.append(InetOption(level, option, value))
        return tuple(found)

    def prepare(self, sock: socket.socket, record: InetSocket) -> None:
        """Set what has to stand before the socket gets its address."""
        for option in record.options:
            if (option.level, option.option) in _EARLY:
                sock.setsockopt(option.level, option.option, option.value)
        # An address that is not here (yet) does not matter: where it was bound is its own affair.
        if sock.family == socket.AF_INET6:
            sock.setsockopt(io.SOL_IPV6, io.IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(io.SOL_IP, io.IP_FREEBIND, 1)

    def finish(self, sock: socket.socket, record: InetSocket) -> None:
        """Set everything; what was borrowed meanwhile comes back.

        Raises:
            RestoreError: The image names an option that such a socket does not have.
        """
        kind = self._of(sock)
        wanted = {(o.level, o.option): o.value for o in record.options}
        if not wanted.keys() <= kind.known.keys():
            level, option = next(iter(wanted.keys() - kind.known.keys()))
            raise RestoreError(
                f"a socket of the image has an option {option} of level {level}, which no such"
                " socket has",
                reason="image-inconsistent",
            )
        # The filter may lock itself, and a device is looked up by the packets of a restore too.
        last = (io.SOL_SOCKET, io.SO_LOCK_FILTER)
        for key, known in kind.known.items():
            if key in (last, (io.SOL_IPV6, io.IPV6_V6ONLY)):
                continue  # the latter can only be set before bind(2)
            if key in wanted:
                self._set(sock, key, wanted[key])
            elif key in _BORROWED:
                self._set(sock, key, kind.defaults[known])
        if record.device:
            sock.setsockopt(io.SOL_SOCKET, io.SO_BINDTODEVICE, record.device.encode() + b"\0")
        self.attach_filter(sock, record)
        if last in wanted:
            self._set(sock, last, wanted[last])

    @staticmethod
    def attach_filter(sock: socket.socket, record: InetSocket) -> None:
        """Attach a socket's filter, as `finish` does too."""
        if record.filter:
            with _explained("filter"):
                set_filter(sock.fileno(), record.filter)

    @staticmethod
    def _set(sock: socket.socket, key: tuple[int, int], value: bytes) -> None:
        level, option = key
        if level == io.SOL_SOCKET and option in _FORCED:
            # The kernel doubles what it is given for its own bookkeeping and shows the double.
            sock.setsockopt(level, _FORCED[option], int.from_bytes(value[:4], "little") // 2)
            return
        try:
            sock.setsockopt(level, option, value)
        except OSError as exc:
            raise RestoreError(
                f"a socket's option {option} of level {level} cannot be set to {value.hex()}:"
                f" {exc.strerror}",
                reason="socket-option",
            ) from exc

    @staticmethod
    def set_reuse(sock: socket.socket, record: InetSocket) -> None:
        """Let a socket share its port if the program wanted that."""
        for option in record.options:
            if (option.level, option.option) == (io.SOL_SOCKET, io.SO_REUSEADDR):
                sock.setsockopt(option.level, option.option, option.value)

    @staticmethod
    def borrow_reuse(sock: socket.socket) -> None:
        """Let a socket share its port until `finish`."""
        sock.setsockopt(io.SOL_SOCKET, io.SO_REUSEADDR, 1)

    @staticmethod
    def borrow_room(sock: socket.socket, bytes_in: int, bytes_out: int) -> None:
        """Make a socket's buffers large enough until `finish`."""
        # Twice the content and its bookkeeping
        if bytes_in:
            sock.setsockopt(io.SOL_SOCKET, io.SO_RCVBUFFORCE, 4 * bytes_in + (1 << 20))
        if bytes_out:
            sock.setsockopt(io.SOL_SOCKET, io.SO_SNDBUFFORCE, 4 * bytes_out + (1 << 20))


def _fresh(family: int, kind: int, protocol: int) -> socket.socket:
    try:
        return socket.socket(family, kind, protocol)
    except PermissionError:
        # Ping sockets are for groups that the namespace allows; UDP's options are the same.
        return socket.socket(family, kind)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:
        raise RestoreError(
            f"a socket's {what} cannot be set: {exc}", reason="socket-option"
        ) from exc
