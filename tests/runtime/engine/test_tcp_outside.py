"""TCP connections to peers outside: nothing is lost, nothing comes twice, and nobody is reset."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runtime.kernel.nfnetlink import NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE, Netfilter
from runtime.kernel.visit import visiting_path
from tests.support import tcp_stream
from tests.support.bundles import bind, make_bundle
from tests.support.command import Wherry
from tests.support.wait import wait_until

ROUNDS = 12
_PREFIX = f"wt{os.getpid() % 100000}"
_HOST, _INSIDE, _INSIDE_SIX = "10.213.7.1", "10.213.7.2", "fd00:213:7::2"


def ip(*arguments: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass
class Cable:
    """A network namespace as the outside, and a veth pair whose other end goes into a container.

    Attributes:
        outside: Path of the namespace that the peer is in.
    """

    name: str

    @property
    def outside(self) -> str:
        """The namespace of the peer."""
        return f"/run/netns/{self.name}o"

    def lay(self, target: str) -> None:
        """Connect the outside with the namespace *target* (a name or a pid)."""
        near, far = f"{self.name}n", f"{self.name}f"
        for command in (
            f"link add {near} netns {self.name}o type veth peer name {far} netns {target}",
            f"-n {self.name}o addr add {_HOST}/24 dev {near}",
            f"-n {self.name}o addr add fd00:213:7::1/64 dev {near} nodad",
            f"-n {self.name}o link set {near} up",
        ):
            ip(*command.split())

    def script(self) -> str:
        """A hook that lays the cable into the container whose state it reads."""
        near, far = f"{self.name}n", f"{self.name}f"
        out = f"ip -n {self.name}o"
        inside = "nsenter -t $pid -n ip"
        return "\n".join(
            [
                "#!/bin/sh -e",
                "pid=$(sed -n 's/.*\"pid\": *\\([0-9]*\\).*/\\1/p')",
                f"{out} link del {near} 2>/dev/null || true",
                f"{out} link add {near} type veth peer name {far} netns $pid",
                f"{out} link set {near} address 02:00:00:00:00:01",
                f"{out} addr add {_HOST}/24 dev {near}",
                f"{out} addr add fd00:213:7::1/64 dev {near} nodad",
                f"{out} link set {near} up",
                f"{inside} link set {far} address 02:00:00:00:00:02",
                f"{inside} addr add {_INSIDE}/24 dev {far}",
                f"{inside} addr add {_INSIDE_SIX}/64 dev {far} nodad",
                f"{inside} link set {far} up",
            ]
        )


@pytest.fixture
def cable() -> Iterator[Cable]:
    """A namespace for the peer, and one for containers that join."""
    made = Cable(_PREFIX)
    names = (f"{_PREFIX}o", f"{_PREFIX}i")
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        yield made
    finally:
        for name in names:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


@dataclass
class Play:
    """A container with the end inside, which comes back again and again under new names."""

    wherry: Wherry
    bundle: Path
    folder: Path
    scratch: Path
    round: int = 0
    alive: list[str] = field(default_factory=list)

    @property
    def cid(self) -> str:
        """The container of now."""
        return f"{_PREFIX}-{self.round}"

    def start(self) -> None:
        """Run it until it listens."""
        self.wherry("run", "--detach", "--overlay", "--bundle", self.bundle, self.cid)
        self.alive.append(self.cid)
        wait_until((self.folder / "ready").exists, 30, "ready")

    def checkpoint(self, *options: str) -> Path:
        """Write an image of it."""
        image = self.scratch / f"{self.round}.wherry"
        self.wherry("checkpoint", "--tcp-established", *options, "--image-path", image, self.cid)
        return image

    def move(self, *options: str) -> None:
        """Checkpoint, kill, delete, restore."""
        image = self.checkpoint(*options)
        self.wherry("delete", self.cid)
        self.alive.remove(self.cid)
        self.round += 1
        self.wherry("restore", "--detach", "--bundle", self.bundle, "--image-path", image, self.cid)
        self.alive.append(self.cid)
        image.unlink()

    @property
    def heard(self) -> int:
        """How far the end inside has got."""
        path = self.folder / "heard"
        return int(path.read_text() or 0) if path.exists() else 0

    def check(self) -> None:
        """Raise what the end inside complains of."""
        failure = self.folder / "failure"
        assert not failure.exists(), f"the end inside: {failure.read_text()}"


@contextlib.contextmanager
def play(
    wherry: Wherry,
    scratch: Path,
    host: str,
    port: int,
    change: Callable[[dict[str, Any]], object],
    program: list[str] | None = None,
) -> Iterator[Play]:
    """A container with one end of a connection, whose folder it shares with us."""
    folder = scratch / "folder"
    folder.mkdir()

    def configure(spec: dict[str, Any]) -> None:
        bind(spec, folder, str(folder))
        change(spec)

    program = program or [sys.executable, tcp_stream.__file__, host, str(port), str(folder)]
    bundle = make_bundle(scratch / "bundle", program, configure)
    made = Play(wherry, bundle, folder, scratch)
    try:
        yield made
    finally:
        for cid in made.alive:
            wherry("delete", "--force", cid, check=False)


def network(path: str | None) -> Callable[[dict[str, Any]], object]:
    """A change of a configuration: the host's network, or that of a path."""

    def change(spec: dict[str, Any]) -> None:
        spaces = spec["linux"]["namespaces"]
        spaces[:] = [space for space in spaces if space["type"] != "network"]
        if path is not None:
            spaces.append({"type": "network", "path": path})

    return change


def run_rounds(made: Play, peer: tcp_stream.Peer, rounds: int) -> None:
    """Move the container while both ends talk."""

    def both_go_on(since: tuple[int, int]) -> bool:
        peer.check()
        made.check()
        return peer.heard > since[0] + 100_000 and made.heard > since[1] + 100_000

    wait_until(partial(both_go_on, (0, 0)), 30, "the first bytes")
    for index in range(rounds):
        before = peer.heard, made.heard
        if index % 4 == 3:
            made.checkpoint("--leave-running").unlink()
        else:
            made.move()
        wait_until(partial(both_go_on, before), 60, f"bytes after round {index}")


def free_port(host: str) -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def tables(path: str) -> str:
    """What is left of our packet filters in a namespace."""
    return repr(Netfilter(path, NFNL_SUBSYS_NFTABLES).list(NFT_MSG_GETTABLE))


@pytest.mark.timeout(240)
def test_streams_on_in_the_network_of_the_host(wherry: Wherry, scratch: Path) -> None:
    port = free_port("127.0.0.1")
    with play(wherry, scratch, "127.0.0.1", port, network(None)) as made:
        made.start()
        peer = tcp_stream.Peer(socket.create_connection(("127.0.0.1", port)))
        try:
            run_rounds(made, peer, 5)
        finally:
            peer.close()
    assert "wherry-" not in tables("/proc/self/ns/net")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("host", [_INSIDE, _INSIDE_SIX])
def test_streams_on_in_a_network_that_was_joined(
    wherry: Wherry, scratch: Path, cable: Cable, host: str
) -> None:
    inside = f"{cable.name}i"
    cable.lay(inside)
    ip("-n", inside, "addr", "add", f"{_INSIDE}/24", "dev", f"{cable.name}f")
    ip("-n", inside, "addr", "add", f"{_INSIDE_SIX}/64", "dev", f"{cable.name}f", "nodad")
    ip("-n", inside, "link", "set", f"{cable.name}f", "up")
    with play(wherry, scratch, host, 7000, network(f"/run/netns/{inside}")) as made:
        made.start()
        with visiting_path(cable.outside, "net"):
            sock = socket.create_connection((host, 7000))
        peer = tcp_stream.Peer(sock)
        try:
            run_rounds(made, peer, 3)
        finally:
            peer.close()
    assert "wherry-" not in tables(f"/run/netns/{inside}")


@pytest.mark.timeout(240)
def test_streams_on_in_a_network_of_its_own(wherry: Wherry, scratch: Path, cable: Cable) -> None:
    """Each container gets a new namespace, and a hook brings the interface into it."""
    hook = scratch / "hook"
    hook.write_text(cable.script())
    hook.chmod(0o755)

    def change(spec: dict[str, Any]) -> None:
        spec["hooks"] = {"createRuntime": [{"path": str(hook)}]}

    with play(wherry, scratch, _INSIDE, 7000, change) as made:
        made.start()
        with visiting_path(cable.outside, "net"):
            sock = socket.create_connection((_INSIDE, 7000))
        peer = tcp_stream.Peer(sock)
        try:
            run_rounds(made, peer, ROUNDS)
        finally:
            peer.close()


@pytest.mark.timeout(120)
def test_is_refused_without_an_option_or_comes_back_closed(wherry: Wherry, scratch: Path) -> None:
    port = free_port("127.0.0.1")
    with play(wherry, scratch, "127.0.0.1", port, network(None)) as made:
        made.start()
        peer = tcp_stream.Peer(socket.create_connection(("127.0.0.1", port)))
        try:
            run_rounds(made, peer, 0)
            result = wherry.fails("checkpoint", "--image-path", scratch / "image", made.cid)
            said = r"fd \d+ .*--tcp-established.*\[tcp-established\]"
            assert re.search(said, result.stderr), result.stderr
            run_rounds(made, peer, 0)
            made.move("--tcp-close")
            wait_until((made.folder / "failure").exists, 30, "the end of the connection")
        finally:
            peer.close()
    # As after the end of any connection: whether it reads or writes first is a matter of luck.
    failure = (made.folder / "failure").read_text()
    assert "ended" in failure or "BrokenPipe" in failure, failure


_LISTEN = """
import pathlib, socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
folder = pathlib.Path(sys.argv[2])
(folder / "ready").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
sock, peer = listener.accept()
sock.sendall(b"welcome")
(folder / "peer").write_text(str(peer[1]))
"""


@pytest.mark.timeout(120)
def test_connections_in_flight_are_refused_or_left_out(wherry: Wherry, scratch: Path) -> None:
    port = free_port("127.0.0.1")
    program = [sys.executable, "-c", _LISTEN, str(port), str(scratch / "folder")]
    with play(wherry, scratch, "127.0.0.1", port, network(None), program) as made:
        made.start()
        with socket.create_connection(("127.0.0.1", port)) as early:
            result = wherry.fails("checkpoint", "--image-path", scratch / "image", made.cid)
            said = r"--tcp-skip-in-flight.*\[tcp-in-flight\]"
            assert re.search(said, result.stderr), result.stderr
            made.move("--tcp-skip-in-flight")
            early.settimeout(10)
            with pytest.raises(ConnectionResetError):
                early.recv(1)
            early.close()
            with socket.create_connection(("127.0.0.1", port)) as late:
                (made.folder / "go").touch()
                late.settimeout(10)
                assert late.recv(7) == b"welcome"
                peer = made.folder / "peer"
                wait_until(lambda: peer.exists() and peer.read_text(), 10, "its peer")
                assert late.getsockname()[1] == int(peer.read_text())
