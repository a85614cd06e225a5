"""UDP, UDP-Lite, raw and ping sockets from records."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time

from formats.records.inet import InetAddress, InetSocket
from runtime.engine.files.datagram_queue import join
from runtime.engine.files.inet_addresses import new_socket, sockaddr
from runtime.engine.files.inet_options import OptionTable
from runtime.errors import RestoreError
from runtime.kernel.inet_diag import plain_host
from runtime.kernel.inet_options import disconnect
from runtime.kernel.packets import PacketSource

_SO_MEMINFO = 55  # include/uapi/asm-generic/socket.h
_PATIENCE_S = 3.0
_PING_RANGE = "/proc/sys/net/ipv4/ping_group_range"


class DatagramRestore:
    """Datagram and raw sockets of an image.

    Args:
        options: Of the network namespace, which is the current one.
        packets: To send what was waiting once more.
        made: Finished sockets by file; this adds to it.
    """

    def __init__(
        self,
        options: OptionTable,
        packets: PacketSource,
        made: dict[int, socket.socket],
    ) -> None:
        self._options = options
        self._packets = packets
        self._made = made

    def make(self, records: list[InetSocket]) -> None:
        """Make the sockets."""
        for record in records:
            sock = self._made[record.file_id] = _make(record)
            self._options.prepare(sock, record)
            self._options.borrow_reuse(sock)
            if record.local is not None:
                self._bind(sock, record)
        for record in records:
            sock = self._made[record.file_id]
            if record.queue:
                self._fill(sock, record)
            self._options.finish(sock, record)
            self._join(sock, record)
            if record.remote is not None:
                self._connect(sock, record)
            _shut_down(sock, record)

    @staticmethod
    def _bind(sock: socket.socket, record: InetSocket) -> None:
        assert record.local is not None
        sock.bind(sockaddr(record.local))

    @staticmethod
    def _connect(sock: socket.socket, record: InetSocket) -> None:
        assert record.remote is not None
        try:
            sock.connect(sockaddr(record.remote))
        except OSError as exc:
            host, port, *_ = sockaddr(record.remote)
            raise RestoreError(
                f"a socket cannot be connected to {host} port {port} here: {exc.strerror}",
                reason="net-connect",
            ) from exc

    @staticmethod
    def _join(sock: socket.socket, record: InetSocket) -> None:
        for membership in record.memberships:
            try:
                join(sock, membership, socket.if_nametoindex(membership.device))
            except OSError as exc:
                raise RestoreError(
                    f"a multicast group cannot be joined on interface {membership.device}: {exc}",
                    reason="net-interface",
                ) from exc

    # Waiting datagrams

    def _fill(self, sock: socket.socket, record: InetSocket) -> None:
        """Send the waiting datagrams once more, in their senders' names."""
        assert record.local is not None
        self._options.borrow_room(sock, sum(len(d.data) + 512 for d in record.queue), 0)
        for datagram in record.queue:
            sender = plain_host(datagram.sender.host), datagram.sender.port
            host = plain_host(datagram.target or record.local.host)
            if not any(host):
                host = b"\x7f\0\0\1" if len(sender[0]) == 4 else (1).to_bytes(16, "big")
            # Connected for the moment, it gets them even where others share its port.
            with contextlib.suppress(OSError):
                sock.connect(sockaddr(datagram.sender))
            before = _memory_used(sock)
            self._packets.send_datagram(
                sender, (host, record.local.port), datagram.data, record.protocol
            )
            _await_more(sock, before)
        disconnect(sock)
        self._bind_again(sock, record.local)

    @staticmethod
    def _bind_again(sock: socket.socket, local: InetAddress) -> None:
        """A socket that loses its peer keeps the address that it was bound to by name."""
        if sock.getsockname()[1] != local.port:
            sock.bind(sockaddr(local))


def _make(record: InetSocket) -> socket.socket:
    try:
        return new_socket(record)
    except PermissionError:
        if record.kind != socket.SOCK_DGRAM:
            raise
    # A ping socket: who may have one is for the namespace to say, and may have changed since.
    with open(_PING_RANGE, "r+") as file:
        before = file.read()
        file.seek(0)
        file.write("0 2147483647")
        file.flush()
        try:
            return new_socket(record)
        finally:
            file.seek(0)
            file.write(before)


def _memory_used(sock: socket.socket) -> int:
    raw = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
    return int(struct.unpack_from("=I", raw)[0])


def _await_more(sock: socket.socket, before: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while _memory_used(sock) <= before:
        if time.monotonic() > deadline:
            raise RestoreError(
                "a datagram that was waiting does not arrive again", reason="udp-queue"
            )
        time.sleep(0.0002)


def _shut_down(sock: socket.socket, record: InetSocket) -> None:
    if record.shutdown:
        try:
            sock.shutdown(record.shutdown - 1)
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:  # it takes effect all the same
                raise
