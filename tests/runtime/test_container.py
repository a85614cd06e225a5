"""The Container class, called as another program would."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.container import Container
from runtime.creation import CreateRequest
from runtime.errors import (
    AmbiguousIdError,
    ContainerError,
    ContainerExistsError,
    ContainerNotFoundError,
    SpecError,
    WrongStatusError,
)
from runtime.exec_session import ExecRequest
from runtime.process import ProcessRef
from runtime.sandbox.descriptors import Stdio
from runtime.spec.default import do_spec
from runtime.state_root import delete_entry
from runtime.status import Status
from tests.support.wait import wait_until


@pytest.fixture
def null() -> Iterator[int]:
    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    yield fd
    os.close(fd)


class Maker:
    """Makes containers in one root."""

    def __init__(self, root: Path, null: int) -> None:
        self.root = root
        self.stdio = Stdio(null, null, null)

    def request(self, cid: str, script: str, **changes: Any) -> CreateRequest:
        spec = do_spec(["sh", "-c", script], env=["PATH=/usr/bin:/bin"])
        spec.update(changes)
        return CreateRequest(cid=cid, spec=spec, bundle=Path("/"), stdio=self.stdio, overlay=True)

    def run(self, cid: str, script: str = "exec sleep 1000") -> Container:
        return Container.run(self.root, self.request(cid, script))


@pytest.fixture
def maker(wherry_root: Path, null: int) -> Maker:
    return Maker(wherry_root, null)


def test_a_life(maker: Maker) -> None:
    container = Container.create(maker.root, maker.request("web", "exit 5"))
    assert container.pid > 0
    assert container.state()["status"] == "created"
    container.start()
    assert os.waitstatus_to_exitcode(container.wait()) == 5
    assert container.status is Status.STOPPED
    assert container.pid == -1
    assert os.waitstatus_to_exitcode(container.wait_root_pid()) == 5
    container.destroy()
    container.destroy()  # idempotent
    with pytest.raises(ContainerNotFoundError):
        Container.load(maker.root, "web")


def test_load_and_list(maker: Maker) -> None:
    one, two = maker.run("web-one"), maker.run("web-two")
    assert Container.load(maker.root, "web-o").id == "web-one"
    assert Container.load(maker.root, "web-two", exact=True).id == "web-two"
    with pytest.raises(AmbiguousIdError):
        Container.load(maker.root, "web")
    with pytest.raises(ContainerNotFoundError):
        Container.load(maker.root, "web-o", exact=True)
    (maker.root / "half").mkdir()
    (maker.root / "a-file").touch()
    entries = {entry.id: entry.container is not None for entry in Container.list(maker.root)}
    assert entries == {"half": False, "web-one": True, "web-two": True}
    assert Container.list(maker.root / "missing") == []
    (maker.root / "a-file").unlink()
    delete_entry(maker.root, "half", force=True)
    for container in (one, two):
        container.destroy(force=True)


def test_destroy_and_wait_kills_and_knows_how_it_ended(maker: Maker) -> None:
    container = maker.run("web")
    pid = ProcessRef.of(container.pid)
    assert container.destroy_and_wait() == signal.SIGKILL
    assert pid.wait_gone(0)
    assert not container.directory.exists()
    assert container.destroy_and_wait() is None


def test_destroy_of_what_runs_needs_force(maker: Maker) -> None:
    container = maker.run("web")
    with pytest.raises(WrongStatusError):
        container.destroy()
    assert container.status is Status.RUNNING
    container.pause()
    container.destroy(force=True)  # also when it is frozen


def test_a_failed_creation_leaves_nothing(maker: Maker) -> None:
    with pytest.raises(SpecError):
        Container.create(maker.root, maker.request("web", "true", mounts="nonsense"))
    request = maker.request("web", "true")
    request.spec["process"]["args"] = ["/no/such/program"]
    with pytest.raises(ContainerError, match="no/such/program"):
        Container.create(maker.root, request)
    mount = {"destination": "/x", "source": "/no/such/source", "options": ["bind"]}
    request = maker.request("web", "true")
    request.spec["mounts"].append(mount)
    with pytest.raises(ContainerError, match="/no/such/source"):
        Container.create(maker.root, request)
    assert list(maker.root.iterdir()) == []


def test_an_id_that_is_taken(maker: Maker) -> None:
    container = maker.run("web")
    with pytest.raises(ContainerExistsError):
        Container.create(maker.root, maker.request("web", "true"))
    assert container.status is Status.RUNNING
    container.destroy(force=True)


def test_execute_and_its_statuses(maker: Maker) -> None:
    container = maker.run("web")

    def process(script: str) -> ExecRequest:
        document = {"args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/usr/bin:/bin"]}
        return ExecRequest(document, maker.stdio)

    handle = container.execute(process("exit 6"))
    assert os.waitstatus_to_exitcode(handle.wait()) == 6
    assert os.waitstatus_to_exitcode(container.wait_pid(handle.ns_pid)) == 6
    sleeping = container.execute(process("exec sleep 1000"))
    container.signal(signal.SIGKILL, ns_pid=sleeping.ns_pid)
    assert os.WTERMSIG(sleeping.wait()) == signal.SIGKILL
    sleeping.close()
    handle.close()
    with pytest.raises(ContainerError) as caught:
        container.wait_pid(4_000_000)
    assert caught.value.reason == "no-such-process"
    container.destroy(force=True)


def test_processes_and_events(maker: Maker) -> None:
    container = maker.run("web", "sleep 1000 & wait")
    wait_until(lambda: len(container.processes()) == 2)
    assert {line.ns_pid for line in container.processes()} == {1, 2}
    assert container.processes()[0].pid == container.pid
    event = container.event()
    assert (event["type"], event["id"]) == ("stats", "web")
    container.destroy(force=True)


def test_directories_nested_deeper_than_a_path_may_be_long_go_away(maker: Maker) -> None:
    code = """
import os
os.chdir("/tmp")
for _ in range(60):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
os.symlink("/etc/passwd", "link")
"""
    script = f"exec python3 -c '{code}'"
    container = maker.run("web", script)
    assert container.wait() == 0
    container.destroy()
    assert not container.directory.exists()
    assert Path("/etc/passwd").exists()


def test_the_record_survives_no_secret_leak(maker: Maker) -> None:
    """The configuration holds the environment: nobody else may read the record."""
    container = maker.run("web")
    assert (container.directory / "state.json").stat().st_mode & 0o077 == 0
    container.destroy(force=True)


def test_the_monitor_holds_on_to_nothing_of_its_command(maker: Maker) -> None:
    reader, writer = os.pipe()
    container = maker.run("web")
    os.close(writer)
    assert os.read(reader, 1) == b""  # neither monitor nor init has the other end
    os.close(reader)
    monitor = container.metadata.monitor
    assert monitor is not None
    assert os.readlink(f"/proc/{monitor.pid}/cwd") == "/"
    assert os.getsid(monitor.pid) == monitor.pid
    container.destroy(force=True)
    assert monitor.wait_gone(10)
