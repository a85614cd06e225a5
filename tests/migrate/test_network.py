"""A container that moves keeps its addresses, and a client on a third host its connections."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Lab
from tests.support.programs import need
from tests.support.wait import wait_until

ADDRESS = "10.88.0.7"
REDIS_CLIENT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark" / "redis_client.py"

SERVER = """
import socket, threading
def serve(sock):
    total = 0
    with sock, sock.makefile("rw") as lines:
        for line in lines:
            total += int(line)
            print(total, file=lines, flush=True)
def echo():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", 7000))
    while True:
        sock.sendto(*sock.recvfrom(2000))
threading.Thread(target=echo, daemon=True).start()
listener = socket.create_server(("0.0.0.0", 7000))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

# Sums up numbers with the server over one connection, and over a new one now and then.
USER = """
import json, os, socket, sys, time
address, folder = (sys.argv[1], 7000), sys.argv[2]
found = {"requests": 0, "connections": 0, "longest_ms": 0}
def sums(count, number):
    with socket.create_connection(address, timeout=30) as sock, sock.makefile("rw") as lines:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        total = 0
        for _ in range(count):
            began = time.monotonic()
            print(number, file=lines, flush=True)
            total += number
            answer = lines.readline()
            assert answer == f"{total}\\n", (answer, total)
            found["requests"] += 1
            found["longest_ms"] = max(found["longest_ms"], (time.monotonic() - began) * 1e3)
            yield
try:
    steps = sums(10**9, 3)
    while not os.path.exists(folder + "/stop"):
        for _ in range(20):
            next(steps)
        list(sums(2, 5))
        found["connections"] += 1
        with open(folder + "/new", "w") as file:
            json.dump(found, file)
        os.rename(folder + "/new", folder + "/found")
except BaseException as exc:
    with open(folder + "/trouble", "w") as file:
        file.write(repr(exc))
    raise
"""


@dataclass(frozen=True)
class Site:
    """Two hosts with a bridge each, a wire between the bridges, and a client at the first."""

    lab: Lab
    folder: Path

    def start(self, *command: str) -> None:
        """Run a server on host a, connected with its bridge."""
        job = ("wherry", "do", "--detach", "--id", "job", "--", "/usr/bin/env")
        self.lab.run("a", *job, *command)
        pid = self.lab.json("a", "wherry", "state", "job")["pid"]
        inside = f"nsenter --net --target {pid} ip"
        for words in (
            f"ip link add job0 type veth peer name eth0 netns {pid}",
            "ip link set job0 master br0 up",
            f"{inside} address add {ADDRESS}/24 dev eth0",
            f"{inside} link set eth0 up",
        ):
            self.lab.run("a", *words.split())

    @contextlib.contextmanager
    def used_by(self, *program: str | Path) -> Iterator[None]:
        """A program on host c that runs until there is a file "stop" in the folder."""
        command = ("ip", "netns", "exec", f"wherry-{self.lab.name}-c", sys.executable, *program)
        with subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL) as process:
            try:
                yield
            finally:
                (self.folder / "stop").touch()
                try:
                    assert process.wait(40) == 0, self.trouble()
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise

    def trouble(self) -> str:
        """What the client complains about."""
        path = self.folder / "trouble"
        return path.read_text() if path.exists() else ""

    def found(self) -> dict[str, Any]:
        """What the client says."""
        assert not self.trouble()
        path = self.folder / "found"
        result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return result

    def goes_on(self) -> bool:
        """Whether the client gets further answers, on its old connection and on new ones."""
        before = self.found().get("connections", 0)
        wait_until(lambda: self.found().get("connections", 0) > before + 3)
        return True


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    lab.call("bridge")
    try:
        yield Site(lab, tmp_path)
    finally:
        for host in ("a", "b"):
            for cid in lab.containers(host):
                lab.run(host, "wherry", "delete", "--force", cid, check=False)
        lab.call("bridge", "--remove")


@pytest.fixture
def client(site: Site) -> Iterator[None]:
    """A client that never rests."""
    site.start("python3", "-c", SERVER)
    with site.used_by("-c", USER, ADDRESS, site.folder):
        yield


@pytest.mark.usefixtures("client")
def test_a_client_elsewhere_keeps_its_connection(site: Site) -> None:
    assert site.goes_on()
    for source, target in (("a", "b"), ("b", "a"), ("a", "b")):
        site.lab.run(source, "wherry", "migrate", "job", target)
        assert site.lab.containers(target) == {"job": "running"}
        assert site.goes_on()


@pytest.mark.usefixtures("client")
def test_a_network_that_is_not_there_is_named_before_anything_happens(site: Site) -> None:
    site.lab.run("b", "ip", "link", "set", "br0", "name", "br1")
    try:
        done = site.lab.run("a", "wherry", "migrate", "job", "b", check=False)
        assert done.returncode not in (0, 70)
        assert "[no-network]" in done.stderr and "--network" in done.stderr
        assert site.goes_on()
        site.lab.run("a", "wherry", "migrate", "--network", "eth0=br1", "job", "b")
        assert site.goes_on()
    finally:
        site.lab.run("b", "ip", "link", "set", "br1", "name", "br0")


def test_an_interface_that_it_has_not_got(site: Site) -> None:
    site.start("python3", "-c", SERVER)
    done = site.lab.run("a", "wherry", "migrate", "--network", "eth7=br0", "job", "b", check=False)
    assert "no interface eth7" in done.stderr
    assert site.lab.containers("a") == {"job": "running"}


def test_redis_moves_and_forgets_nothing(site: Site) -> None:
    need("redis-server")
    options = ("--save", "", "--protected-mode", "no", "--dir", "/tmp")
    site.start("redis-server", *options)
    with site.used_by(REDIS_CLIENT, ADDRESS, site.folder, "16"):
        wait_until(lambda: (site.folder / "ready").exists() or site.trouble())
        for source, target in (("a", "b"), ("b", "a"), ("a", "b"), ("b", "a")):
            site.lab.run(source, "wherry", "migrate", "job", target)
            assert not site.trouble()
    found = json.loads((site.folder / "found").read_text())
    assert found["calls"] > 1000
    assert len(found["slow_ms"]) >= 1, "nobody noticed anything: did it move?"
