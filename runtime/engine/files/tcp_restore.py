"""TCP connections from records.

Both ends of a connection inside the container are made the same way, each for itself; nothing is
sent before both stand, and their queues and numbers fit because they were read at rest. Ends that
were closed are closed again, and the segment that the other end would have sent is delivered in its
name, while what they really send is held off: each gets to where it was, and nowhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace

from formats.records.inet import InetAddress, InetSocket, TcpState
from runtime.engine.files.inet_addresses import Sockaddr, ends_of, new_socket, sockaddr
from runtime.engine.files.inet_options import OptionTable
from runtime.engine.files.tcp_state import FIN_RECEIVED, FIN_SENT
from runtime.errors import RestoreError
from runtime.kernel import tcp_repair
from runtime.kernel.inet_diag import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_SYN_SENT,
)
from runtime.kernel.inet_options import SOL_TCP, TCP_CORK
from runtime.kernel.packets import ACK, FIN, PacketSource
from runtime.kernel.tcp_repair import (
    SIOCINQ,
    TCP_RECV_QUEUE,
    TCP_SEND_QUEUE,
    TCPOPT_MSS,
    TCPOPT_SACK_PERM,
    TCPOPT_TIMESTAMP,
    TCPOPT_WINDOW,
)

_PATIENCE_S = 3.0  # for what the kernel does by itself, at once unless the host is overloaded
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class TcpRestore:
    """The TCP sockets of an image.

    Args:
        options: Of the network namespace, which is the current one.
        packets: To speak for peers.
        records: All TCP sockets.
        made: Finished sockets by file; this adds to it.

    Attributes:
        inside: Both ends of the connections within the container, local end first.
        outside: The same of those to peers outside.
        needs_lock: Whether some of them must not move on before everything is there.
    """

    def __init__(
        self,
        options: OptionTable,
        packets: PacketSource,
        records: list[InetSocket],
        made: dict[int, socket.socket],
    ) -> None:
        self._options = options
        self._packets = packets
        self._made = made
        self._records = records
        with_tcp = [r for r in records if r.tcp is not None]
        self._dead = [r for r in with_tcp if r.state == TCP_CLOSE]
        self._connecting = [r for r in with_tcp if r.state == TCP_SYN_SENT]
        living = [r for r in with_tcp if r.state not in (TCP_CLOSE, TCP_SYN_SENT)]
        self._pending = [r for r in living if _tcp(r).pending]
        standing = [r for r in living if not _tcp(r).pending]
        self._open = [r for r in standing if r.state == TCP_ESTABLISHED]
        self._closing = [r for r in standing if r.state != TCP_ESTABLISHED]
        self.inside = [ends_of(r) for r in standing if not _tcp(r).outside]
        self.outside = [ends_of(r) for r in standing if _tcp(r).outside]
        self.needs_lock = any(not _tcp(r).outside for r in self._closing)

    # Queues of listening sockets

    def fill_listening_queues(self) -> None:
        """Connect to listening sockets what had connected and was not accepted."""
        for record in self._records:
            if record.state == TCP_LISTEN:
                for stranger in record.strangers:
                    self._knock(record, stranger)
        for record in self._pending:
            sock = self._start(record)
            tcp_repair.leave_repair(sock, 1)
            _connect(sock, record)
            self._borrow_cork(sock, record)
            self._send(sock, b"".join(_tcp(record).sent))
            if record.state in FIN_SENT:
                sock.shutdown(socket.SHUT_WR)

    @staticmethod
    def _knock(listener: InetSocket, stranger: InetAddress) -> None:
        """Leave a connection in a listening socket's queue whose other end is closed."""
        family = socket.AF_INET if len(stranger.host) == 4 else socket.AF_INET6
        assert listener.local is not None
        host = listener.local.host
        if not any(host) or len(host) != len(stranger.host):
            host = stranger.host
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            tcp_repair.enter_repair(sock)
            sock.bind(sockaddr(stranger))
            tcp_repair.leave_repair(sock, 0)
            sock.settimeout(_PATIENCE_S)
            sock.connect(sockaddr(replace(stranger, host=host, port=listener.local.port)))

    # Connections

    def connect(self) -> None:
        """Make every connection, in repair mode, and bring those with a closed end to where they
        were. Their packets are held off."""
        for record in (*self._open, *self._closing):
            sock, tcp = self._start(record), _tcp(record)
            tcp_repair.set_queue_sequence(sock, TCP_SEND_QUEUE, tcp.send_seq)
            tcp_repair.set_queue_sequence(sock, TCP_RECV_QUEUE, tcp.receive_seq)
            _connect(sock, record)
            tcp_repair.set_negotiated(sock, _negotiated(tcp))
            if tcp.timestamps:
                tcp_repair.set_timestamp(sock, tcp.timestamp)
            for piece in tcp.received:
                tcp_repair.fill_queue(sock, TCP_RECV_QUEUE, piece)
        for record in self._closing:
            self._fill_send_queue(record)
            self._leave_repair(record)
            self._close_ends(record)
        for record in self._dead:
            self._made[record.file_id] = self._dead_socket(record)
        for record in self._connecting:
            sock = self._start(record)
            tcp_repair.set_queue_sequence(sock, TCP_SEND_QUEUE, _tcp(record).send_seq)

    def fill_send_queues(self) -> None:
        """Put what was sent and not acknowledged into the queues of open connections.

        The kernel repeats it by and by, beginning now.
        """
        for record in self._open:
            self._fill_send_queue(record)
        for record in (*self._open, *self._closing, *self._connecting):
            self._options.attach_filter(self._made[record.file_id], record)

    def _fill_send_queue(self, record: InetSocket) -> None:
        sock, tcp = self._made[record.file_id], _tcp(record)
        sent = b"".join(tcp.sent)
        tcp_repair.fill_queue(sock, TCP_SEND_QUEUE, sent[: len(sent) - tcp.unsent])
        if tcp.window:
            tcp_repair.set_window(sock, _window(tcp))
        tcp_repair.renew_segment_size(sock)

    def go_on(self) -> None:
        """Leave repair mode, send what was never sent, ask again who was asked."""
        for record in self._open:
            self._leave_repair(record)
        for record in self._connecting:
            self._connect_anew(record)
        for record in self._records:
            if record.tcp is not None:
                self._options.finish(self._made[record.file_id], record)
        for record in self._records:
            if record.shutdown & 1 and record.state != TCP_CLOSE:
                self._made[record.file_id].shutdown(socket.SHUT_RD)

    def _leave_repair(self, record: InetSocket) -> None:
        sock, tcp = self._made[record.file_id], _tcp(record)
        # A probe has a peer outside say where it is, which it may long have wanted to.
        probe = tcp.outside and record.state == TCP_ESTABLISHED
        tcp_repair.leave_repair(sock, 1, probe=probe)
        if tcp.unsent:
            self._borrow_cork(sock, record)
            self._send(sock, b"".join(tcp.sent)[-tcp.unsent :])

    def _start(self, record: InetSocket) -> socket.socket:
        """A socket in repair mode, at its address."""
        sock, tcp = new_socket(record), _tcp(record)
        self._made[record.file_id] = sock
        self._options.prepare(sock, record)
        tcp_repair.enter_repair(sock)
        self._options.borrow_room(sock, sum(map(len, tcp.received)), sum(map(len, tcp.sent)))
        assert record.local is not None
        sock.bind(sockaddr(record.local))
        return sock

    @staticmethod
    def _borrow_cork(sock: socket.socket, record: InetSocket) -> None:
        """Keep the kernel from sending less than a whole segment until the options are set."""
        if any((o.level, o.option) == (SOL_TCP, TCP_CORK) for o in record.options):
            sock.setsockopt(SOL_TCP, TCP_CORK, 1)

    @staticmethod
    def _send(sock: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[sock.send(view, socket.MSG_DONTWAIT) :]

    # Closing

    def _close_ends(self, record: InetSocket) -> None:
        """Bring a connection from "established" to where it was, whatever its other end does."""
        sock = self._made[record.file_id]
        if record.state in (TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_CLOSING):
            sock.shutdown(socket.SHUT_WR)
        if record.state != TCP_FIN_WAIT1:
            self._hear_from_peer(record)
        if record.state == TCP_LAST_ACK:
            sock.shutdown(socket.SHUT_WR)
        _await_state(sock, record, record.state)

    def _hear_from_peer(self, record: InetSocket) -> None:
        """Receive the peer's FIN, or the word that it has received ours."""
        tcp = _tcp(record)
        local, remote = ends_of(record)
        fin = record.state in FIN_RECEIVED
        everything = tcp.send_seq + sum(map(len, tcp.sent)) + 1
        self._packets.send_segment(
            remote,
            local,
            sequence=tcp.receive_seq + sum(map(len, tcp.received)),
            acknowledged=everything if record.state == TCP_FIN_WAIT2 else tcp.send_seq,
            flags=FIN | ACK if fin else ACK,
            window=min((tcp.window[1] if tcp.window else 0) >> max(tcp.send_scale, 0), 0xFFFF),
        )
        if record.state == TCP_LAST_ACK:
            _await_state(self._made[record.file_id], record, TCP_CLOSE_WAIT)

    # Connections that have ended, or not begun

    def _dead_socket(self, record: InetSocket) -> socket.socket:
        """A connection that has ended: the real thing, over loopback, ended the same way."""
        if record.local is not None:
            with contextlib.suppress(OSError):
                return self._end_connection(record, record.local)
        loopback = b"\x7f\0\0\1" if record.family == socket.AF_INET else (1).to_bytes(16, "big")
        return self._end_connection(record, InetAddress(loopback, 0))

    def _end_connection(self, record: InetSocket, local: InetAddress) -> socket.socket:
        with contextlib.ExitStack() as undo:
            sock = undo.enter_context(new_socket(record))
            self._options.prepare(sock, record)
            data = b"".join(_tcp(record).received)
            self._options.borrow_room(sock, len(data), 0)
            listener = undo.enter_context(socket.socket(record.family, socket.SOCK_STREAM))
            listener.bind(sockaddr(replace(local, port=0)))
            address: Sockaddr = listener.getsockname()
            if local.port:
                tcp_repair.enter_repair(sock)
                sock.bind(sockaddr(local))
                tcp_repair.leave_repair(sock, 0)
            if record.error == errno.ECONNREFUSED:
                listener.close()
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    sock.connect(address)
                _await(lambda: _events(sock) & select.POLLERR, "a refused connection")
            else:
                listener.listen(1)
                sock.connect(address)
                self._end(record, sock, listener.accept()[0], data)
            sock.setblocking(True)
            undo.pop_all()
            listener.close()
            return sock

    def _end(
        self, record: InetSocket, sock: socket.socket, peer: socket.socket, data: bytes
    ) -> None:
        with peer:
            self._options.borrow_room(peer, 0, len(data))
            self._send(peer, data)
            _await(lambda: tcp_repair.queued_bytes(sock, SIOCINQ) == len(data), "its data")
            if record.error:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                peer.close()
                _await(lambda: _events(sock) & select.POLLERR, "its end")
                return
            peer.shutdown(socket.SHUT_WR)
            _await_state(sock, record, TCP_CLOSE_WAIT)
            sock.shutdown(socket.SHUT_WR)
            _await_state(sock, record, TCP_CLOSE)

    def _connect_anew(self, record: InetSocket) -> None:
        """Send the first segment again, with the same number."""
        sock = self._made[record.file_id]
        tcp_repair.leave_repair(sock, 1)
        blocking = os.get_blocking(sock.fileno())
        os.set_blocking(sock.fileno(), False)
        try:
            _connect(sock, record)
        except BlockingIOError:
            pass
        finally:
            os.set_blocking(sock.fileno(), blocking)


def _tcp(record: InetSocket) -> TcpState:
    assert record.tcp is not None
    return record.tcp


def _connect(sock: socket.socket, record: InetSocket) -> None:
    assert record.remote is not None
    try:
        sock.connect(sockaddr(record.remote))
    except BlockingIOError:
        raise
    except OSError as exc:
        host, port, *_ = sockaddr(record.remote)
        raise RestoreError(
            f"a TCP connection to {host} port {port} cannot be restored here: {exc.strerror}",
            reason="tcp-connect",
        ) from exc


def _negotiated(tcp: TcpState) -> dict[int, int]:
    options = {TCPOPT_MSS: tcp.mss}
    if tcp.send_scale >= 0:
        options[TCPOPT_WINDOW] = tcp.send_scale | tcp.receive_scale << 16
    if tcp.sack:
        options[TCPOPT_SACK_PERM] = 0
    if tcp.timestamps:
        options[TCPOPT_TIMESTAMP] = 0
    return options


def _window(tcp: TcpState) -> tuple[int, ...]:
    """The window, without the peer's FIN, which has not come yet."""
    send_from, send_window, largest, receive_window, receive_from = tcp.window
    end = (tcp.receive_seq + sum(map(len, tcp.received))) & 0xFFFFFFFF
    if (receive_from - end) & 0xFFFFFFFF < 1 << 31:
        receive_from = end
    if (send_from - end) & 0xFFFFFFFF < 1 << 31:
        send_from = end
    return send_from, send_window, largest, receive_window, receive_from


def _events(sock: socket.socket) -> int:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return next((events for _, events in poll.poll(0)), 0)


def _await_state(sock: socket.socket, record: InetSocket, state: int) -> None:
    _await(
        lambda: tcp_repair.tcp_info(sock).state == state,
        f"state {state} of a TCP connection that was in state {record.state}",
    )


def _await(condition: Callable[[], object], what: str) -> None:
    """Wait for what the kernel does in its own time.

    Raises:
        RestoreError: It does not happen.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RestoreError(f"waited in vain for {what}", reason="tcp-state")
        time.sleep(0.0002)
