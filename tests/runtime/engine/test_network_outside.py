"""Interfaces that lead to the host: a hook or an option brings them into the restored container."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.kernel.frames import ETH_P_ALL
from runtime.kernel.namespaces import fresh_network_namespace
from runtime.kernel.visit import visiting_path
from tests.support.bundles import make_bundle
from tests.support.command import Wherry

ADDRESS = socket.inet_aton("10.50.0.2")
SETTINGS = (
    "ip link set lo up; ip link set eth0 mtu 1400 address 02:00:00:00:00:07; ip link set eth0 up;"
    "ip address add 10.50.0.2/24 dev eth0; ip address add fd50::2/64 dev eth0 nodad;"
    "ip route add default via 10.50.0.1"
)


@pytest.fixture(autouse=True)
def _host() -> Iterator[None]:
    """A network namespace that stands for the host's; the commands of a test start in it."""
    with fresh_network_namespace() as fd, visiting_path(f"/proc/self/fd/{fd}", "net"):
        _run("ip link add bridge9 type bridge")
        _run("ip link set bridge9 up")
        yield


def _run(command: str) -> str:
    result = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}: {result.stderr}"
    return result.stdout


def _inside(wherry: Wherry, cid: str, command: str) -> str:
    pid = json.loads(wherry("state", cid).stdout)["pid"]
    return _run(f"nsenter --net --target {pid} sh -c '{command}'")


def _seen(wherry: Wherry, cid: str) -> str:
    links = _inside(wherry, cid, "ip -o link show eth0 | sed -E s/@.*mtu/mtu/\\;s/state.*mode//")
    return links + _inside(wherry, cid, "ip -4 -o address show; ip route; ip neighbour show proxy")


def _image(wherry: Wherry, scratch: Path) -> str:
    """Save a container that is connected to the host; returns what it saw of the network."""
    bundle = make_bundle(scratch / "before", ["sleep", "1000"])
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "before")
    pid = json.loads(wherry("state", "before").stdout)["pid"]
    _run(f"ip link add outer type veth peer name eth0 index 20 netns {pid}")
    _run("ip link set outer up master bridge9")
    _inside(wherry, "before", SETTINGS)
    seen = _seen(wherry, "before")
    result = wherry("checkpoint", "--image-path", scratch / "image", "before")
    assert "eth0 leads outside" in result.stderr
    wherry("delete", "before")
    return seen


def test_is_refused_by_name_without_its_other_end(wherry: Wherry, scratch: Path) -> None:
    _image(wherry, scratch)
    result = wherry.fails("restore", "--detach", "--image-path", scratch / "image", "after")
    assert "eth0" in result.stderr
    assert "[net-link-missing]" in result.stderr
    assert wherry.status("after") == "absent"


def test_an_option_names_the_other_end(wherry: Wherry, scratch: Path) -> None:
    seen = _image(wherry, scratch)
    external = ("--external", "veth[eth0]:newer@bridge9")
    wherry("restore", "--detach", "--image-path", scratch / "image", *external, "after")
    assert _seen(wherry, "after") == seen
    outer = _run("ip -o link show newer")
    assert "master bridge9" in outer
    assert "LOWER_UP" in outer
    wherry("delete", "--force", "after")


def test_joins_the_outside_when_it_goes_on(wherry: Wherry, scratch: Path) -> None:
    """Frozen, nobody hears of it; then everybody hears where its addresses are now."""
    _image(wherry, scratch)
    external = ("--external", "veth[eth0]:newer%d@bridge9")
    wherry("create", "--restore", scratch / "image", *external, "after")
    assert "master bridge9" not in _run("ip -o link show newer0")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(ETH_P_ALL)) as tap:
        tap.bind(("bridge9", ETH_P_ALL))
        tap.settimeout(20)
        wherry("start", "after")
        assert "master bridge9" in _run("ip -o link show newer0")
        mac = bytes.fromhex("020000000007")
        wanted = {
            b"\xff" * 6 + mac + bytes.fromhex("08060001080006040001") + mac + ADDRESS,
            bytes.fromhex("333300000001") + mac + bytes.fromhex("86dd60000000"),
        }
        while wanted:
            frame = tap.recv(2000)
            wanted -= {start for start in wanted if frame.startswith(start)}
    wherry("delete", "--force", "after")


def test_a_hook_brings_the_interface(wherry: Wherry, scratch: Path) -> None:
    """It comes under another number, with another address, and down."""
    seen = _image(wherry, scratch)
    hook = scratch / "hook"
    hook.write_text(
        "#!/bin/sh\n"
        "pid=$(python3 -c \"import json, sys; print(json.load(sys.stdin)['pid'])\")\n"
        "ip link add given type veth peer name eth0 netns $pid\n"
        "ip link set given up\n"
        "nsenter --net --target $pid ip address add 10.99.0.1/24 dev eth0\n"
    )
    hook.chmod(0o755)

    def with_hook(spec: dict[str, object]) -> None:
        spec["hooks"] = {"createRuntime": [{"path": str(hook)}]}

    bundle = make_bundle(scratch / "after", ["sleep", "1000"], with_hook)
    wherry("restore", "--detach", "--image-path", scratch / "image", "--bundle", bundle, "after")
    assert _seen(wherry, "after") == seen
    wherry("delete", "--force", "after")
