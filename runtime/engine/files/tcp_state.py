"""TCP connections into records: queues, sequence numbers, and what the handshake agreed on.

Each connection is read in repair mode, one after the other, while the kernel may still move bytes
between two of them. So they are looked at again at the end (`Snapshot.changed`): the whole is
consistent once nothing has moved since each was read.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from formats.limits import MAX_BLOB_SIZE
from formats.records.inet import TcpState
from runtime.kernel import inet_options, tcp_repair
from runtime.kernel.inet_diag import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_SYN_SENT,
)
from runtime.kernel.tcp_repair import (
    SIOCINQ,
    SIOCOUTQ,
    SIOCOUTQNSD,
    TCP_MAXSEG,
    TCP_RECV_QUEUE,
    TCP_SEND_QUEUE,
    TCPI_OPT_SACK,
    TCPI_OPT_TIMESTAMPS,
    TCPI_OPT_WSCALE,
    TcpInfo,
    tcp_info,
)

PIECE = MAX_BLOB_SIZE // 2
_SEQUENCE = 1 << 32

# Our FIN: is it in the send queue, unacknowledged?  The peer's: has it come?
FIN_UNACKED = (TCP_FIN_WAIT1, TCP_CLOSING, TCP_LAST_ACK)
FIN_SENT = (*FIN_UNACKED, TCP_FIN_WAIT2)
FIN_RECEIVED = (TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING)


class UrgentDataError(Exception):
    """The receive queue holds urgent data, which a peek cannot pass."""


class MovingError(Exception):
    """The connection moved while it was read."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A connection as it was read.

    Attributes:
        state: For the image.
        marks: What changes whenever the connection moves.
    """

    state: TcpState
    marks: tuple[int, ...]

    def changed(self, sock: socket.socket) -> bool:
        """Whether the connection has moved since."""
        return marks_of(tcp_info(sock), sock) != self.marks


def marks_of(info: TcpInfo, sock: socket.socket) -> tuple[int, ...]:
    """What changes when bytes come, go or are acknowledged."""
    return (
        info.state,
        info.bytes_received,
        info.bytes_acked,
        tcp_repair.queued_bytes(sock, SIOCOUTQ),
        tcp_repair.queued_bytes(sock, SIOCOUTQNSD),
    )


def read_connection(sock: socket.socket) -> Snapshot:
    """Read a connection, leaving it as it was.

    Raises:
        UrgentDataError: It cannot be read whole.
        MovingError: It kept moving.
    """
    for _ in range(20):
        before = marks_of(tcp_info(sock), sock)
        try:
            with _peeking_from_start(sock), tcp_repair.repairing(sock):
                state = _read(sock)
        except MovingError:
            continue
        if marks_of(tcp_info(sock), sock) == before:
            return Snapshot(state, before)
    raise MovingError


def _read(sock: socket.socket) -> TcpState:
    info = tcp_info(sock)
    send_end = tcp_repair.queue_sequence(sock, TCP_SEND_QUEUE)
    if info.state == TCP_SYN_SENT:
        return TcpState(send_seq=(send_end - 1) % _SEQUENCE)
    fin = info.state in FIN_UNACKED
    unacked = tcp_repair.queued_bytes(sock, SIOCOUTQ) - fin
    unsent = tcp_repair.queued_bytes(sock, SIOCOUTQNSD)
    sent = tcp_repair.peek_queue(sock, TCP_SEND_QUEUE, unacked + 1) if unacked > 0 else b""
    received = read_received(sock)
    receive_end = tcp_repair.queue_sequence(sock, TCP_RECV_QUEUE)
    if len(sent) != max(unacked, 0):
        raise MovingError
    scaled = bool(info.options & TCPI_OPT_WSCALE)
    fin_in_end = fin or info.state == TCP_FIN_WAIT2
    return TcpState(
        send_seq=(send_end - fin_in_end - len(sent)) % _SEQUENCE,
        receive_seq=(receive_end - (info.state in FIN_RECEIVED) - len(received)) % _SEQUENCE,
        sent=pieces(sent),
        unsent=max(unsent - fin, 0) if unsent else 0,
        received=pieces(received),
        mss=sock.getsockopt(socket.IPPROTO_TCP, TCP_MAXSEG),
        send_scale=info.send_scale if scaled else -1,
        receive_scale=info.receive_scale if scaled else 0,
        sack=bool(info.options & TCPI_OPT_SACK),
        timestamps=bool(info.options & TCPI_OPT_TIMESTAMPS),
        timestamp=tcp_repair.timestamp(sock),
        window=tcp_repair.window(sock),
    )


def read_received(sock: socket.socket) -> bytes:
    """What waits to be read. The socket is in repair mode.

    Raises:
        UrgentDataError: Urgent data is among it.
    """
    waiting = tcp_repair.queued_bytes(sock, SIOCINQ)
    received = tcp_repair.peek_queue(sock, TCP_RECV_QUEUE, waiting + 1) if waiting else b""
    if has_urgent_data(sock):
        raise UrgentDataError
    if len(received) < waiting:
        raise MovingError
    return received


def has_urgent_data(sock: socket.socket) -> bool:
    """Whether an urgent byte has been announced and not been passed yet."""
    poll = select.poll()
    poll.register(sock, select.POLLPRI)
    return any(events & select.POLLPRI for _, events in poll.poll(0))


@contextlib.contextmanager
def _peeking_from_start(sock: socket.socket) -> Iterator[None]:
    """Have MSG_PEEK begin at the first byte, whatever SO_PEEK_OFF says (Linux 6.9 for TCP)."""
    level, option = socket.SOL_SOCKET, inet_options.SO_PEEK_OFF
    before = sock.getsockopt(level, option)
    if before < 0:
        yield
        return
    sock.setsockopt(level, option, -1)
    try:
        yield
    finally:
        sock.setsockopt(level, option, before)


def pieces(data: bytes) -> tuple[bytes, ...]:
    """Data in pieces that a record can hold."""
    return tuple(data[start : start + PIECE] for start in range(0, len(data), PIECE))


def pending_error(info: TcpInfo) -> int | None:
    """Which error a dead connection has to report, as far as that can be known.

    The kernel tells only that there is one. A connection that ended after its peer had answered,
    and without unanswered repetitions, was reset; one that never stood was refused.
    """
    if info.state != TCP_CLOSE or info.retransmits or not info.segments_in:
        return None
    stood = info.send_window or info.bytes_received or info.bytes_acked
    return errno.ECONNRESET if stood else errno.ECONNREFUSED


def read_dead(sock: socket.socket) -> tuple[bytes, ...]:
    """What can still be read from a connection that has ended.

    Raises:
        UrgentDataError, MovingError: As `read_connection`.
    """
    with _peeking_from_start(sock), tcp_repair.repairing(sock):
        return pieces(read_received(sock))
