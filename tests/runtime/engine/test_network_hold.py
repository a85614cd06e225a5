"""Peers of TCP connections are held off, and hear nothing of it, whichever way it ends."""

from __future__ import annotations

import select
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from runtime.engine.network_hold import NetworkHold, end_silently, take_back
from runtime.kernel import nft
from runtime.kernel.nfnetlink import NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE, Netfilter
from runtime.kernel.packets import ACK, FIN, PacketSource
from runtime.kernel.tcp_repair import in_repair, tcp_info
from runtime.kernel.visit import visiting

LOOPBACKS = ("127.0.0.1", "::1")


@dataclass
class Place:
    """A network namespace with a task in it."""

    pid: int

    def connect(self, host: str) -> tuple[socket.socket, socket.socket]:
        """Both ends of a connection over its loopback: one to be held, and its peer."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with visiting(self.pid, "net"), socket.create_server((host, 0), family=family) as listener:
            near = socket.create_connection(listener.getsockname()[:2])
            far, _ = listener.accept()
        near.settimeout(5)
        far.settimeout(5)
        return near, far

    def tables(self) -> int:
        """How many tables of nf_tables it has."""
        path = f"/proc/{self.pid}/ns/net"
        return len(Netfilter(path, NFNL_SUBSYS_NFTABLES).list(NFT_MSG_GETTABLE))


@pytest.fixture
def place() -> Iterator[Place]:
    command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield Place(process.pid)
        finally:
            process.kill()


def ends(sock: socket.socket) -> nft.Connection:
    """A connection as the packet filter names it."""

    def plain(name: tuple[str, int]) -> tuple[bytes, int]:
        return socket.inet_pton(sock.family, name[0]), name[1]

    return plain(sock.getsockname()), plain(sock.getpeername())


def comes(sock: socket.socket, timeout_s: float) -> bool:
    """Whether there is something to read, an end included."""
    return bool(select.select([sock], [], [], timeout_s)[0])


def hold_of(place: Place, sock: socket.socket) -> NetworkHold:
    """The connection of *sock* held."""
    hold = NetworkHold()
    hold.hold(place.pid, [ends(sock)], [sock.dup().detach()], own=False)
    return hold


@pytest.mark.parametrize("host", LOOPBACKS)
def test_released_everything_comes_after_all(place: Place, host: str) -> None:
    near, far = place.connect(host)
    with near, far:
        with hold_of(place, near):
            far.sendall(b"held")
            assert not comes(near, 0.1)
            near.sendall(b"out")  # is on its way, and its answer is lost
            assert far.recv(3) == b"out"
            assert place.tables() == 1
            assert not comes(near, 0)
        assert place.tables() == 0
        assert near.recv(4) == b"held"


@pytest.mark.parametrize("host", LOOPBACKS)
def test_abandoned_and_released_it_goes_on(place: Place, host: str) -> None:
    near, far = place.connect(host)
    with near, far:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with hold_of(place, near) as hold:
            far.sendall(b"held")
            hold.abandon()
            assert in_repair(near)
            assert place.tables() == 2
        assert not in_repair(near)
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        assert place.tables() == 0
        assert near.recv(4) == b"held"
        near.sendall(b"back")
        assert far.recv(4) == b"back"


@pytest.mark.parametrize("host", LOOPBACKS)
def test_ended_the_peer_hears_nothing(place: Place, host: str) -> None:
    near, far = place.connect(host)
    with far:
        far.sendall(b"unread")
        assert comes(near, 5)
        with hold_of(place, near) as hold:
            connection = ends(near)
            hold.abandon()
            hold.end()
        near.close()
        far.sendall(b"more")
        assert not comes(far, 0.5), "it was reset"
        assert place.tables() == 1
        nft.let_through(f"/proc/{place.pid}/ns/net", [connection])
        assert comes(far, 5), "nobody is there any more, and nobody says so"


def test_left_behind_it_can_be_taken_back(place: Place) -> None:
    near, far = place.connect("127.0.0.1")
    with near, far:
        with hold_of(place, near) as hold:
            token = hold.leave_behind()
        far.sendall(b"held")
        assert not comes(near, 0.1)
        take_back(place.pid, token)
        assert near.recv(4) == b"held"
        assert place.tables() == 0


def test_ended_silently_the_peer_hears_nothing(place: Place) -> None:
    program = (
        "import socket; l = socket.create_server(('127.0.0.1', 0));"
        "print(l.getsockname()[1], flush=True); s, _ = l.accept(); print(flush=True); s.recv(1);"
        "s.recv(1)"
    )
    command = ["nsenter", "-t", str(place.pid), "-n", "python3", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with visiting(place.pid, "net"):
            far = socket.create_connection(("127.0.0.1", port))
        with far:
            process.stdout.readline()
            end_silently([process.pid], own=False)
            process.kill()
            process.wait()
            assert not comes(far, 0.5)


@pytest.mark.parametrize("host", LOOPBACKS)
def test_a_segment_of_ours_passes_and_closes(place: Place, host: str) -> None:
    near, far = place.connect(host)
    with near, far, hold_of(place, near):
        from runtime.engine.files.tcp_state import read_connection

        state = read_connection(near).state
        local, remote = ends(near)
        with visiting(place.pid, "net"):
            packets = PacketSource()
            packets.send_segment(
                remote,
                local,
                sequence=state.receive_seq,
                acknowledged=state.send_seq,
                flags=FIN | ACK,
                window=100,
            )
            packets.close()
        assert near.recv(1) == b""
        assert tcp_info(near).state == 8  # CLOSE_WAIT
        assert tcp_info(far).state == 1


@pytest.mark.parametrize("host", LOOPBACKS)
@pytest.mark.parametrize("size", [0, 1, 1000, 60001])
def test_a_datagram_comes_in_the_name_of_its_sender(place: Place, host: str, size: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sender = "2001:db8::7" if ":" in host else "192.0.2.7"
    data = bytes(index % 251 for index in range(size))
    for protocol in (17, 136):
        with visiting(place.pid, "net"):
            receiver = socket.socket(family, socket.SOCK_DGRAM, protocol)
            packets = PacketSource()
            with receiver:
                receiver.bind((host, 0))
                receiver.settimeout(5)
                packets.send_datagram(
                    (socket.inet_pton(family, sender), 4711),
                    (socket.inet_pton(family, host), receiver.getsockname()[1]),
                    data,
                    protocol,
                )
                packets.close()
                found, name = receiver.recvfrom(1 << 16)
        assert (found, name[:2]) == (data, (sender, 4711))
