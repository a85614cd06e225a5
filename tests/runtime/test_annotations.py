"""Kubernetes' annotations, and the namespaces of a shared sandbox."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.annotations import ContainerType, sandbox_role
from runtime.errors import SpecError
from runtime.sandbox_group import join_sandbox

CRI = "io.kubernetes.cri"
CRIO = "io.kubernetes.cri-o"


def test_without_annotations_a_container_is_alone() -> None:
    assert sandbox_role({"other": "x"}).type is ContainerType.SINGLE


@pytest.mark.parametrize(
    "keys",
    [
        (f"{CRI}.container-type", f"{CRI}.sandbox-id"),
        (f"{CRIO}.ContainerType", f"{CRIO}.SandboxID"),
    ],
)
def test_both_runtimes_of_kubernetes(keys: tuple[str, str]) -> None:
    role = sandbox_role({keys[0]: "container", keys[1]: "pod"})
    assert role.type is ContainerType.CONTAINER
    assert role.sandbox_id == "pod"
    role = sandbox_role({keys[0]: "sandbox", keys[1]: "pod"})
    assert role.type is ContainerType.SANDBOX
    assert role.sandbox_id is None


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({f"{CRI}.container-type": "pod"}, "must be 'sandbox' or 'container'"),
        ({f"{CRI}.container-type": "container"}, f"{CRI}.sandbox-id"),
        ({f"{CRIO}.ContainerType": "container", f"{CRIO}.SandboxID": ""}, "its sandbox's id"),
    ],
)
def test_what_makes_no_sense_is_refused(annotations: dict[str, str], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        sandbox_role(annotations)


def kinds(spec: dict[str, Any]) -> dict[str, str | None]:
    return {entry["type"]: entry.get("path") for entry in spec["linux"]["namespaces"]}


def test_namespaces_without_a_path_become_those_of_the_sandbox() -> None:
    spec: dict[str, Any] = {
        "hostname": "own",
        "linux": {
            "namespaces": [
                {"type": "pid"},
                {"type": "network", "path": "/run/netns/given"},
                {"type": "mount"},
            ]
        },
    }
    joined = join_sandbox(spec, 77, {"linux": {"namespaces": [{"type": "pid"}]}})
    assert kinds(joined) == {
        "pid": "/proc/77/ns/pid",
        "network": "/run/netns/given",
        "mount": None,
        "ipc": "/proc/77/ns/ipc",
        "uts": "/proc/77/ns/uts",
    }
    assert "hostname" not in joined
    assert kinds(spec)["pid"] is None  # the argument is left alone


def test_the_user_namespace_comes_along_when_the_sandbox_has_one() -> None:
    mapping = [{"containerID": 0, "hostID": 1000, "size": 10}]
    root = {"linux": {"namespaces": [{"type": "user"}], "uidMappings": mapping}}
    joined = join_sandbox({"linux": {"uidMappings": mapping, "gidMappings": mapping}}, 77, root)
    assert kinds(joined)["user"] == "/proc/77/ns/user"
    assert "uidMappings" not in joined["linux"]
