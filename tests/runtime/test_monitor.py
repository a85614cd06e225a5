"""The monitor of a real container, spoken to directly."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.checkpoint_container import freeze_lease
from runtime.container import Container
from runtime.creation import CreateRequest
from runtime.errors import ContainerError
from runtime.monitor import SOCKET_NAME
from runtime.monitor_client import MonitorClient, MonitorGoneError
from runtime.sandbox.descriptors import Stdio
from runtime.spec.default import do_spec
from runtime.status import Status
from tests.support.wait import wait_until


@pytest.fixture
def container(wherry_root: Path) -> Iterator[Container]:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    request = CreateRequest(
        cid="web",
        spec=do_spec(["sleep", "1000"], env=["PATH=/usr/bin:/bin"]),
        bundle=Path("/"),
        stdio=Stdio(null, null, null),
        overlay=True,
    )
    made = Container.run(wherry_root, request)
    os.close(null)
    yield made
    made.destroy(force=True)


def in_a_child(body: Callable[[], None]) -> int:
    """Run *body* in a child and return its pid; it pauses when *body* is done."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            body()
            os.write(writer, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    done = os.read(reader, 1)
    os.close(reader)
    assert done == b"x"
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_command_killed_while_it_froze_the_container_is_made_good(container: Container) -> None:
    keep = []

    def freeze() -> None:
        lease = freeze_lease(container.directory)
        keep.append(lease)  # or it would be released when it is collected
        lease.__enter__()
        container.cgroups.freeze(10)

    pid = in_a_child(freeze)
    assert container.status is Status.PAUSED
    end(pid)
    wait_until(lambda: container.status is Status.RUNNING)


def test_a_paused_container_is_left_paused(container: Container) -> None:
    container.pause()
    keep = []

    def hold() -> None:
        lease = freeze_lease(container.directory)
        keep.append(lease)
        lease.__enter__()

    end(in_a_child(hold))
    with MonitorClient(container.directory) as client:
        client.request("lease")  # answered only after the loss of the other one was dealt with
        client.request("release")
    assert container.status is Status.PAUSED
    container.resume()


def test_a_released_lease_binds_nobody(container: Container) -> None:
    with MonitorClient(container.directory) as client:
        client.request("lease")
        client.request("release")
        container.cgroups.freeze(10)
    with MonitorClient(container.directory) as client:
        client.request("lease")
        client.request("release")
    assert container.cgroups.frozen
    container.cgroups.thaw()


@pytest.mark.parametrize(
    "data", [b"\n", b"nonsense\n", b"[]\n", b'{"op": 5}\n', b"\xff" * 100, b"x" * (5 << 20)]
)
def test_nonsense_harms_nobody(container: Container, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(container.directory / SOCKET_NAME))
        try:
            sock.sendall(data)
        except OSError:
            pass  # hung up on in the middle
    with pytest.raises(ContainerError), MonitorClient(container.directory) as client:
        client.request("wait_pid", ns_pid=4_000_000)
    assert container.status is Status.RUNNING


def test_an_unknown_request_is_an_answer(container: Container) -> None:
    with MonitorClient(container.directory) as client:
        with pytest.raises(RuntimeError, match="KeyError"):
            client.request("dance")
        client.request("lease")  # and the conversation goes on
        client.request("release")


def test_others_may_not_talk(container: Container) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            MonitorClient(container.directory)
            os._exit(1)
        except PermissionError:
            os._exit(0)
        finally:
            os._exit(2)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_the_monitor_ends_with_its_container(container: Container) -> None:
    monitor = container.metadata.monitor
    assert monitor is not None
    with MonitorClient(container.directory) as client:
        client.post("wait")
        container.signal(signal.SIGKILL)
        assert os.WTERMSIG(client.receive()["exit_status"]) == signal.SIGKILL
    assert monitor.wait_gone(10)
    with pytest.raises(MonitorGoneError):
        MonitorClient(container.directory)
    container.reload()
    assert container.metadata.status is Status.STOPPED
    assert container.metadata.exit_status == signal.SIGKILL
