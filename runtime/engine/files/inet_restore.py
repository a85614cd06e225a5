"""Internet sockets from records, all of a container at once, for they depend on each other.

The order: sockets that listen or are merely bound, before any connection shares their ports; then
connections, in repair mode, until both ends of each stand, and those with closed ends to where they
were. All that happens before the namespace's packet filters are there, and while the packets of the
connections are held off. When the filters are there, too, everything is let go: bytes on their way
move on, or are held up by what held them up before.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator

from formats.records.inet import InetSocket, NetworkLock
from runtime.engine.files.datagram_restore import DatagramRestore
from runtime.engine.files.inet_addresses import checked, closed, new_socket, sockaddr
from runtime.engine.files.inet_options import OptionTable
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.tcp_restore import TcpRestore
from runtime.engine.sandbox.network_ids import namespace_path
from runtime.errors import RestoreError
from runtime.kernel import nft, tcp_repair
from runtime.kernel.inet_diag import TCP_LISTEN
from runtime.kernel.inet_options import SO_BINDTODEVICE, SOL_SOCKET
from runtime.kernel.nft import PacketLock
from runtime.kernel.packets import PacketSource
from runtime.kernel.visit import visiting_path


class InetRestore:
    """All Internet sockets of a network namespace.

    Args:
        files: The restore.
        ns_id: The namespace, in the image.
    """

    def __init__(self, files: RestoredFiles, ns_id: int) -> None:
        self._files = files
        here = (record for record in files.all_of(InetSocket) if record.ns_id == ns_id)
        records = [checked(record) for record in here]
        if files.options.tcp_close:
            records = [closed(r) if r.tcp is not None and r.tcp.outside else r for r in records]
        self._records = records
        self._path = namespace_path(files, ns_id)
        self._is_own = os.path.samefile(self._path, f"/proc/{files.init.pid}/ns/net")
        self._fds: dict[int, int] = {}
        self._lock: PacketLock | None = None
        self._made: dict[int, socket.socket] = {}

    def run(self) -> dict[int, int]:
        """Make them; returns our descriptors by file.

        Raises:
            RestoreError: The kernel refused, or the image contradicts itself.
        """
        with visiting_path(self._path, "net"), contextlib.ExitStack() as stack:
            stack.callback(self._close)
            packets = PacketSource()
            stack.callback(packets.close)
            with _explained():
                self._make(packets)
            self._files.last_steps.append(self._go_on)
            self._fds = {file_id: sock.detach() for file_id, sock in self._made.items()}
            return self._fds

    def _close(self) -> None:
        for sock in self._made.values():
            sock.close()

    def _make(self, packets: PacketSource) -> None:
        options = self._options = OptionTable()
        streams = [r for r in self._records if r.kind == socket.SOCK_STREAM]
        self._tcp = tcp = TcpRestore(options, packets, streams, self._made)
        idle = [r for r in streams if r.tcp is None]
        # Who has connections waiting listens first, so that they can come to nobody else.
        idle.sort(key=lambda record: not record.waiting)
        for record in idle:
            self._made[record.file_id] = self._bound(options, record)
        busy = [r for r in idle if r.state == TCP_LISTEN and r.waiting]
        for record in busy:
            self._made[record.file_id].listen(record.backlog)
        tcp.fill_listening_queues()
        for record in idle:
            if record.state == TCP_LISTEN and not record.waiting:
                self._made[record.file_id].listen(record.backlog)
        for record in idle:
            options.finish(self._made[record.file_id], record)
        self._lock = self._hold(tcp)
        tcp.connect()
        DatagramRestore(options, packets, self._made).make(
            [r for r in self._records if r.kind != socket.SOCK_STREAM]
        )

    def _hold(self, tcp: TcpRestore) -> PacketLock | None:
        """Keep the connections inside from moving on before everything is there."""
        if not tcp.inside:
            return None
        try:
            return PacketLock(self._path, f"wherry-{secrets.token_hex(8)}", tcp.inside, owned=True)
        except OSError as exc:
            if not nft.is_missing(exc):
                raise
            if tcp.needs_lock:
                raise RestoreError(
                    f"half-closed TCP connections need nf_tables, which is not here: {exc}",
                    reason="tcp-lock",
                ) from exc
        return None

    def _go_on(self) -> None:
        """Let everything go."""
        with visiting_path(self._path, "net"), contextlib.ExitStack() as stack, _explained():
            for file_id, fd in self._fds.items():
                self._made[file_id] = sock = socket.socket(fileno=fd)
                stack.callback(sock.detach)
            self._tcp.fill_send_queues()
            if self._lock is not None:
                self._lock.remove()
            if self._is_own:
                self._let_peers_in()
            self._tcp.go_on()

    def _let_peers_in(self) -> None:
        """Take away what holds the peers outside off."""
        if self._files.packet_lock is not None:
            self._files.packet_lock.remove()
        for left in self._files.all_of(NetworkLock):
            nft.remove_lock(self._path, left.token)
        if self._tcp.outside:
            nft.let_through(self._path, self._tcp.outside)

    @staticmethod
    def _bound(options: OptionTable, record: InetSocket) -> socket.socket:
        """A TCP socket that is not connected, at its address."""
        sock = new_socket(record)
        try:
            options.prepare(sock, record)
            options.set_reuse(sock, record)
            if record.device:
                sock.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, record.device.encode() + b"\0")
            if record.local is not None:
                address = sockaddr(record.local)
                try:
                    sock.bind(address)
                except OSError:
                    # It shares a port as it could not any more: its options have changed since.
                    with tcp_repair.repairing(sock):
                        sock.bind(address)
        except BaseException:
            sock.close()
            raise
        return sock


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise RestoreError(f"cannot restore a socket: {exc}", reason="socket-restore") from exc
