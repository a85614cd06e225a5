"""Several containers in one sandbox: joining the namespaces of a sandbox's root container."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formats.errors import Refusal
from runtime.annotations import ContainerType, sandbox_role
from runtime.errors import ContainerError
from runtime.metadata import Metadata, read_metadata

if TYPE_CHECKING:
    from runtime.container import Container

# OCI's names of the namespaces that make a sandbox, and the kernel's names under /proc/PID/ns.
_SHARED = {"pid": "pid", "ipc": "ipc", "network": "net", "uts": "uts"}


def join_sandbox(spec: Mapping[str, Any], root_init_pid: int, root_spec: Mapping[str, Any]) -> Any:
    """The configuration of a container that joins a sandbox, with the namespaces' paths filled in.

    Pid, IPC, network and UTS namespaces for which *spec* gives no path become those of the
    sandbox's root container, and so does the user namespace when the sandbox has one, because the
    others belong to it. Paths that *spec* gives are left as they are.

    Args:
        spec: The OCI configuration of the new container.
        root_init_pid: The init of the sandbox's root container, in our pid namespace.
        root_spec: The OCI configuration of the root container.

    Returns:
        A copy of *spec*.
    """
    joined = copy.deepcopy(dict(spec))
    linux = joined.setdefault("linux", {})
    namespaces = linux.setdefault("namespaces", [])
    shared = dict(_SHARED)
    root_types = {entry["type"] for entry in (root_spec.get("linux") or {}).get("namespaces") or ()}
    if "user" in root_types:
        shared["user"] = "user"
        linux.pop("uidMappings", None)
        linux.pop("gidMappings", None)
    for kind, name in shared.items():
        entry = next((entry for entry in namespaces if entry["type"] == kind), None)
        if entry is None:
            entry = {"type": kind}
            namespaces.append(entry)
        entry.setdefault("path", f"/proc/{root_init_pid}/ns/{name}")
    # The name of a shared UTS namespace belongs to the root container.
    joined.pop("hostname", None)
    joined.pop("domainname", None)
    return joined


def members(root: Path, sandbox_id: str) -> Iterator[Metadata]:
    """The records of the containers in a sandbox, without its root container."""
    for directory in sorted(root.iterdir()):
        if directory.name == sandbox_id or not directory.is_dir():
            continue
        try:
            metadata = read_metadata(directory)
        except ContainerError:
            continue  # half created or corrupt: it can be deleted, and belongs to nobody
        if metadata.sandbox_id == sandbox_id:
            yield metadata


def checkpoint_refusals(container: Container) -> list[Refusal]:
    """Why a container cannot be saved on account of its sandbox: others are in it."""
    role = sandbox_role(container.metadata.annotations)
    if role.type is ContainerType.CONTAINER:
        return [
            Refusal(
                "shared-sandbox",
                f"container {container.id}",
                f"it shares the sandbox of {role.sandbox_id}, which cannot be saved yet",
            )
        ]
    others = [metadata.id for metadata in members(container.root, container.id)]
    if others:
        return [
            Refusal(
                "shared-sandbox",
                f"container {container.id}",
                f"its sandbox also holds {', '.join(others)}, and cannot be saved yet",
            )
        ]
    return []
