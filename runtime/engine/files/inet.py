"""Internet sockets: TCP, UDP, UDP-Lite, raw and ping, of both versions."""

from __future__ import annotations

import fcntl
import itertools
import select
import socket
import stat
import time
from dataclasses import replace

from formats.records.inet import InetAddress, InetSocket, NetworkLock, TcpState
from runtime.engine.files.datagram_queue import memberships, read_queue
from runtime.engine.files.inet_options import OptionTable
from runtime.engine.files.inet_restore import InetRestore
from runtime.engine.files.inet_survey import Held, Peer, Survey, is_internet
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.files.tcp_state import (
    MovingError,
    Snapshot,
    UrgentDataError,
    pending_error,
    read_connection,
    read_dead,
)
from runtime.engine.network_hold import make_room_for_descriptors
from runtime.engine.sandbox.kind import Scope
from runtime.errors import CheckpointError
from runtime.kernel import inet_options, nft
from runtime.kernel.inet_diag import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_SYN_RECV,
)
from runtime.kernel.socket_filter import get_filter
from runtime.kernel.visit import visiting_path

SAVED = (
    (
        "sockets",
        "TCP of both versions: listening with their queue of connections not yet accepted, "
        "established, half closed, connecting, reset; sequence numbers, negotiated options, what "
        "waits to be read or acknowledged; connections to peers outside with `--tcp-established`",
    ),
    (
        "sockets",
        "UDP and UDP-Lite with waiting datagrams and multicast groups; raw and ping sockets; "
        "all options, classic BPF filters",
    ),
)
REFUSED = (
    ("tcp-established", "a TCP connection to a peer outside", "--tcp-established"),
    ("tcp-in-flight", "a connection from outside not yet accepted", "--tcp-skip-in-flight"),
    ("tcp-in-flight", "bytes for a connection that is not yet accepted; try again"),
    ("tcp-orphan", "bytes that a closed connection has still to deliver; try again"),
    ("tcp-urgent", "urgent data not yet read"),
    ("tcp-ulp", "a TCP connection under a protocol of the kernel's, such as TLS"),
    ("tcp-lock", "connections outside where the kernel has no nf_tables to hold them off"),
    ("tcp-error", "an error that a socket has to report and that nobody can ask for"),
    ("socket-error", "errors waiting in a datagram socket"),
    ("socket-bpf", "an extended BPF program attached to a socket"),
    ("udp-corked", "a datagram under construction (UDP_CORK, MSG_MORE)"),
    ("raw-queue", "packets waiting at a raw or ping socket"),
    ("fd-netns", "a socket of a network namespace that is not the container's"),
)

_TIOCOUTQ = 0x5411  # include/uapi/asm-generic/ioctls.h
_SETTLE_S = 5.0


class Inet(Kind):
    """An Internet socket."""

    name = "TCP, UDP, UDP-Lite, raw and ping sockets"
    rank = 44
    record = InetSocket

    def matches(self, table: FileTable, look: Look) -> bool:
        return stat.S_ISSOCK(look.stat.st_mode) and is_internet(look)

    def dump(self, table: FileTable, look: Look, file_id: int) -> InetSocket | None:
        return table.once("inet", lambda: _dump_all(table)).get(file_id)

    def restore(self, files: RestoredFiles, record: InetSocket) -> int:
        key = ("inet", record.ns_id)
        return files.once(key, lambda: InetRestore(files, record.ns_id).run())[record.file_id]


def _dump_all(table: FileTable) -> dict[int, InetSocket]:
    """The records of every network namespace by file, without those that were refused."""
    scopes = [scope for scope in table.context.scopes.values() if scope.kind == "net"]
    dumps = [_Dump(table, scope) for scope in scopes]
    for one, other in itertools.permutations(dumps, 2):
        one.survey.meet(other.survey)
    for dump in dumps:
        dump.check()
    if table.context.refusals:
        return {}
    for dump in dumps:
        dump.read()
    if not table.context.refusals:
        _settle(dumps, table.context.target.container_id)
    return {file_id: record for dump in dumps for file_id, record in dump.records.items()}


def _settle(dumps: list[_Dump], container_id: str) -> None:
    """Read anew what has moved since it was read, until nothing has."""
    deadline = time.monotonic() + _SETTLE_S
    while any(dump.read_again() for dump in dumps):
        if time.monotonic() > deadline:
            raise CheckpointError(
                f"{container_id}: TCP connections inside do not come to rest", reason="tcp-busy"
            )


class _Dump:
    """All Internet sockets of a network namespace into records."""

    def __init__(self, table: FileTable, scope: Scope) -> None:
        self.table = table
        self.options = table.context.target.options
        self.survey = Survey(table, scope)
        self.snapshots: dict[int, Snapshot] = {}
        self.records: dict[int, InetSocket] = {}
        self._strangers: dict[int, tuple[InetAddress, ...]] = {}

    def check(self) -> None:
        """Refuse what stands in the way, before any connection is touched."""
        self._refuse_outside()
        self._strangers = self._queued_connections()
        self._refuse_orphans()

    def read(self) -> None:
        """Hold peers outside off, and make the records."""
        self._hold()
        with visiting_path(self.survey.path, "net"):
            options = OptionTable()
            for held in self.survey.held.values():
                strangers = self._strangers.get(held.file_id, ())
                with socket.socket(fileno=held.look.duplicate()) as sock:
                    record = self._record(held, sock, options, strangers)
                if record is not None:
                    self.records[held.file_id] = record

    def read_again(self) -> bool:
        """Read anew what has moved since it was read; whether there was any."""
        moved = [file_id for file_id in self.snapshots if self._has_moved(file_id)]
        for file_id in moved:
            held = self.survey.held[file_id]
            with socket.socket(fileno=held.look.duplicate()) as sock:
                record = self._with_stream(self.records[file_id], held, sock)
            if record is not None:
                self.records[file_id] = record
        return bool(moved)

    # Connections

    def _is_dropped(self, held: Held) -> bool:
        """Whether a connection is to come back closed."""
        return held.peer is Peer.OUTSIDE and self.options.tcp_close

    def _kept_outside(self) -> list[Held]:
        outside = [h for h in self.survey.held.values() if h.peer is Peer.OUTSIDE]
        return [held for held in outside if not self._is_dropped(held)]

    def _refuse_outside(self) -> None:
        if self.options.tcp_established and self.survey.scope.own:
            return
        for held in self._kept_outside():
            assert held.remote is not None
            self.table.refuse(
                held.look,
                "tcp-established",
                f"is a TCP connection to {_shown(held.remote)} outside of the container; allow it"
                " with --tcp-established, or close it with --tcp-close"
                if self.survey.scope.own
                else f"is a TCP connection to {_shown(held.remote)} outside of its network"
                " namespace; close it with --tcp-close",
            )

    def _queued_connections(self) -> dict[int, tuple[InetAddress, ...]]:
        """Peers of unaccepted connections that nobody holds, by listening socket."""
        strangers: dict[int, tuple[InetAddress, ...]] = {}
        for info, owners, client in self.survey.queued():
            listener = owners[0]
            assert listener.local is not None
            inside = client is not None or (
                self.survey.own and self.survey.is_local(info.remote[0])
            )
            if not inside:
                if not self.options.tcp_skip_in_flight:
                    self.table.refuse(
                        listener.look,
                        "tcp-in-flight",
                        f"has a connection from {_shown(InetAddress(*info.remote))} that is not yet"
                        " accepted; try again, or leave it out with --tcp-skip-in-flight",
                    )
                continue
            fin = info.state == TCP_CLOSE_WAIT
            if info.state != TCP_SYN_RECV and info.receive_queue > fin:
                self.table.refuse(
                    listener.look,
                    "tcp-in-flight",
                    "has bytes waiting in a connection that is not yet accepted; try again",
                )
            elif len([o for o in owners if o.info is not None and o.info.unacked]) > 1:
                self.table.refuse(
                    listener.look,
                    "tcp-in-flight",
                    "shares its port with sockets that have connections not yet accepted too",
                )
            elif client is None and info.state != TCP_SYN_RECV:
                busy = next((o for o in owners if o.info is not None and o.info.unacked), listener)
                host, port = info.remote
                found = strangers.get(busy.file_id, ())
                strangers[busy.file_id] = (*found, InetAddress(host, port))
        return strangers

    def _refuse_orphans(self) -> None:
        """Connections closed inside whose last bytes are still on their way to a socket of ours."""
        for held in self.survey.held.values():
            if held.peer is not Peer.CLOSED:
                continue
            other = self.survey.other_end(held)
            if other is not None and other.send_queue > 1:
                self.table.refuse(
                    held.look,
                    "tcp-orphan",
                    f"has still to receive {other.send_queue - 1} bytes from a connection that was"
                    " closed at the other end; try again",
                )

    def _hold(self) -> None:
        outside = [held for held in self._kept_outside() if held.local and held.remote]
        if not outside:
            return
        hold = self.table.context.target.hold
        make_room_for_descriptors()
        try:
            hold.hold(
                self.survey.scope.pid,
                [held.ends for held in outside],
                [held.look.duplicate() for held in outside],
                own=self.survey.own,
            )
        except OSError as exc:
            if not nft.is_missing(exc):
                raise
            for held in outside:
                self.table.refuse(
                    held.look,
                    "tcp-lock",
                    f"has a peer outside, which nothing here can hold off ({exc})",
                )
        self.table.records.append(NetworkLock(hold.token))

    # Records

    def _record(
        self,
        held: Held,
        sock: socket.socket,
        options: OptionTable,
        strangers: tuple[InetAddress, ...],
    ) -> InetSocket | None:
        look, table = held.look, self.table
        if not self._can_be_saved(held, sock):
            return None
        try:
            program = get_filter(sock.fileno())
        except PermissionError:
            table.refuse(look, "socket-bpf", "has an extended BPF program attached")
            return None
        shutdown = self._shutdown(held)
        idle = held.state == TCP_LISTEN or (held.state == TCP_CLOSE and not shutdown)
        record = InetSocket(
            file_id=held.file_id,
            family=held.family,
            kind=held.kind,
            protocol=held.protocol,
            flags=look.flags,
            state=held.state,
            local=held.local,
            remote=held.remote,
            backlog=held.info.sacked if held.info and held.state == TCP_LISTEN else 0,
            waiting=held.info.unacked if held.info and held.state == TCP_LISTEN else 0,
            strangers=strangers,
            shutdown=shutdown,
            options=options.read(sock, idle=idle),
            device=_device(sock),
            filter=program,
            mode=look.stat.st_mode & 0o7777,
            uid=look.stat.st_uid,
            gid=look.stat.st_gid,
            owner=table.owner(look),
            ns_id=self.survey.scope.ns_id,
        )
        if held.info is None:
            return self._with_datagrams(record, held, sock)
        return self._with_stream(record, held, sock)

    def _can_be_saved(self, held: Held, sock: socket.socket) -> bool:
        look, refuse = held.look, self.table.refuse
        if held.info is not None:
            ulp = sock.getsockopt(inet_options.SOL_TCP, inet_options.TCP_ULP, 16)
            if ulp.strip(b"\0"):
                name = ulp.strip(b"\0").decode()
                refuse(look, "tcp-ulp", f"is under the kernel's protocol {name}")
                return False
            if held.events & select.POLLERR and held.state != TCP_CLOSE:
                refuse(look, "socket-error", "has an error to report, which cannot be saved")
                return False
            return True
        if held.events & select.POLLERR:
            refuse(look, "socket-error", "has an error to report, which cannot be saved")
        elif not _is_packets(held) and _outgoing(sock):
            refuse(look, "udp-corked", "has a datagram under construction")
        elif _is_packets(held) and held.events & select.POLLIN:
            refuse(look, "raw-queue", "has packets waiting to be read")
        else:
            return True
        return False

    def _shutdown(self, held: Held) -> int:
        reading = int(bool(held.events & select.POLLRDHUP))
        if held.info is not None:
            if held.state == TCP_CLOSE:
                return 3 * reading  # a connection that has ended
            # The peer's FIN has shut it down too.
            return reading * (held.state not in (TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING))
        if _is_packets(held):
            return 3 if held.events & select.POLLHUP else reading
        return self.survey.shutdowns(held.protocol).get(held.look.stat.st_ino, reading)

    def _with_datagrams(self, record: InetSocket, held: Held, sock: socket.socket) -> InetSocket:
        waiting = held.events & select.POLLIN and not _is_packets(held)
        return replace(
            record,
            queue=read_queue(self.survey, sock) if waiting else (),
            memberships=memberships(self.survey, held, sock),
        )

    def _with_stream(
        self, record: InetSocket, held: Held, sock: socket.socket
    ) -> InetSocket | None:
        try:
            if held.state == TCP_LISTEN or (held.state == TCP_CLOSE and not record.shutdown):
                if held.events & select.POLLERR:
                    self.table.refuse(held.look, "tcp-error", "has an error to report")
                    return None
                return record
            if held.state == TCP_CLOSE:
                error: int | None = 0
                if held.events & select.POLLERR:
                    assert held.info is not None
                    error = pending_error(held.info)
                if error is None:
                    self.table.refuse(
                        held.look, "tcp-error", "has to report why its connection ended"
                    )
                    return None
                received = read_dead(sock)
                return replace(record, error=error, tcp=TcpState(received=received))
            if self._is_dropped(held):
                return replace(record, state=TCP_CLOSE, remote=None, shutdown=3, tcp=TcpState())
            return self._with_connection(record, held, sock)
        except UrgentDataError:
            self.table.refuse(held.look, "tcp-urgent", "has urgent data that is not yet read")
            return None

    def _with_connection(self, record: InetSocket, held: Held, sock: socket.socket) -> InetSocket:
        snapshot = self.snapshots[held.file_id] = self._snapshot(held, sock)
        state = replace(
            snapshot.state,
            outside=held.peer is Peer.OUTSIDE,
            pending=held.peer is Peer.PENDING,
        )
        return replace(record, state=snapshot.marks[0], tcp=state)

    def _snapshot(self, held: Held, sock: socket.socket) -> Snapshot:
        try:
            return read_connection(sock)
        except MovingError:
            raise CheckpointError(
                f"{self.table.context.subject(held.look.pid, f'fd {held.look.fd}')}: its TCP"
                " connection does not come to rest",
                reason="tcp-busy",
            ) from None

    def _has_moved(self, file_id: int) -> bool:
        with socket.socket(fileno=self.survey.held[file_id].look.duplicate()) as sock:
            return self.snapshots[file_id].changed(sock)


def _is_packets(held: Held) -> bool:
    return held.kind == socket.SOCK_RAW or held.protocol in (
        socket.IPPROTO_ICMP,
        socket.IPPROTO_ICMPV6,
    )


def _outgoing(sock: socket.socket) -> bool:
    """Whether bytes of a datagram socket are on their way, or kept back."""
    return any(fcntl.ioctl(sock.fileno(), _TIOCOUTQ, bytes(4)))


def _device(sock: socket.socket) -> str:
    name = sock.getsockopt(inet_options.SOL_SOCKET, inet_options.SO_BINDTODEVICE, 16)
    return name.rstrip(b"\0").decode()


def _shown(address: InetAddress) -> str:
    family = socket.AF_INET if len(address.host) == 4 else socket.AF_INET6
    return f"{socket.inet_ntop(family, address.host)} port {address.port}"
