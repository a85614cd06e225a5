"""Several containers in one sandbox, joined by Kubernetes' annotations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import make_bundle
from tests.support.command import Wherry
from tests.support.wait import wait_until

CRI = "io.kubernetes.cri"


def member_bundle(scratch: Path, name: str, command: str, sandbox: str = "pod") -> Path:
    annotations = {f"{CRI}.container-type": "container", f"{CRI}.sandbox-id": sandbox}
    return make_bundle(scratch / name, command, lambda s: s.update(annotations=annotations))


@pytest.fixture
def pod(wherry: Wherry, scratch: Path) -> Iterator[str]:
    def change(spec: dict[str, Any]) -> None:
        spec["annotations"] = {f"{CRI}.container-type": "sandbox", f"{CRI}.sandbox-id": "pod"}
        spec["hostname"] = "the-pod"

    bundle = make_bundle(scratch / "pod", "exec sleep 1000", change)
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "pod")
    yield "pod"
    wherry("delete", "--force", "pod")


def namespaces(pid: int) -> dict[str, str]:
    return {
        name: str(Path(f"/proc/{pid}/ns/{name}").readlink())
        for name in ("pid", "net", "ipc", "uts", "mnt")
    }


def test_a_member_shares_all_but_its_files(wherry: Wherry, scratch: Path, pod: str) -> None:
    bundle = member_bundle(scratch, "a", "exec sleep 1000")
    wherry("create", "--bundle", bundle, "--overlay", "a")
    wherry("start", "a")
    root, member = (namespaces(wherry.json("state", cid)["pid"]) for cid in (pod, "a"))
    assert {kind for kind in root if root[kind] != member[kind]} == {"mnt"}
    assert wherry("exec", "a", "hostname").stdout == "the-pod\n"
    comms = wherry("exec", "a", "sh", "-c", "cat /proc/[0-9]*/comm").stdout.split()
    assert comms.count("sleep") == 2
    # Its own processes are its own all the same.
    assert len(wherry.json("ps", "--format", "json", "a")) == 1
    record = json.loads((wherry.root / "a" / "state.json").read_text())
    assert record["sandbox_id"] == pod
    wherry("delete", "--force", "a")
    assert wherry.status(pod) == "running"


def test_members_are_signalled_waited_for_and_destroyed_on_their_own(
    wherry: Wherry, scratch: Path, pod: str
) -> None:
    for name in ("a", "b"):
        bundle = member_bundle(
            scratch, name, "trap 'exit 7' TERM; sleep 1000 & while :; do sleep 0.02; done"
        )
        wherry("run", "--detach", "--bundle", bundle, "--overlay", name)
    wait_until(lambda: len(wherry.json("ps", "--format", "json", "a")) >= 2)
    wherry("kill", "a")
    assert wherry("wait", "a", check=False).returncode == 7
    assert wherry.status("a") == "stopped"
    assert wherry.status("b") == "running"
    wherry("delete", "a")  # which also ends the child that it left behind
    script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done 2> /dev/null"
    commands = wherry("exec", "b", "sh", "-c", script).stdout.splitlines()
    # That of b, and the sandbox's own.
    assert [command.strip() for command in commands].count("sleep 1000") == 2
    wherry("delete", "--force", "b")


def test_the_root_container_takes_its_sandbox_down(wherry: Wherry, scratch: Path, pod: str) -> None:
    for name in ("a", "b"):
        bundle = member_bundle(scratch, name, "exec sleep 1000")
        wherry("run", "--detach", "--bundle", bundle, "--overlay", name)
    wherry("delete", "--force", pod)
    assert {cid: wherry.status(cid) for cid in (pod, "a", "b")} == {
        pod: "absent", "a": "stopped", "b": "stopped",
    }  # fmt: skip
    assert wherry("wait", "a", check=False).returncode == 137
    wherry("delete", "a")
    wherry("delete", "b")


def test_their_checkpoint_is_refused_by_name(wherry: Wherry, scratch: Path, pod: str) -> None:
    bundle = member_bundle(scratch, "a", "exec sleep 1000")
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "a")
    for cid in (pod, "a"):
        result = wherry.fails("checkpoint", "--image-path", scratch / "image", cid)
        assert "[shared-sandbox]" in result.stderr
        assert wherry.status(cid) == "running"
    assert not (scratch / "image").exists()
    wherry("delete", "--force", "a")


def test_a_sandbox_that_is_not_there_is_named(wherry: Wherry, scratch: Path) -> None:
    bundle = member_bundle(scratch, "a", "true", sandbox="nowhere")
    result = wherry.fails("create", "--bundle", bundle, "--overlay", "a")
    assert "'nowhere' does not exist" in result.stderr
    assert list(wherry.root.iterdir()) == []


def test_a_sandbox_that_has_stopped_takes_no_member(
    wherry: Wherry, scratch: Path, pod: str
) -> None:
    wherry("kill", pod, "KILL")
    wherry("wait", pod, check=False)
    bundle = member_bundle(scratch, "a", "true")
    result = wherry.fails("create", "--bundle", bundle, "--overlay", "a")
    assert "in status stopped" in result.stderr
    assert wherry.status("a") == "absent"
