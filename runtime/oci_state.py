"""The OCI state of a container: what ``state`` prints and hooks read.

Source: https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#state
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.filling import KILLED
from runtime.metadata import Metadata
from runtime.status import Status

OCI_VERSION = "1.2.0"


def oci_state(metadata: Metadata, status: Status, pid: int) -> dict[str, Any]:
    """The state document.

    Args:
        metadata: The container's record.
        status: The status as it is, which may be newer than the recorded one.
        pid: The init in our pid namespace; not positive when there is none, which OCI writes as 0.
    """
    state = {
        "ociVersion": OCI_VERSION,
        "id": metadata.id,
        "status": str(status),
        "pid": max(pid, 0),
        "bundle": metadata.bundle,
        "rootfs": rootfs(metadata),
        "created": metadata.created,
        "annotations": metadata.annotations,
        "owner": "",
    }
    killed = metadata.extra.get(KILLED)
    if killed is not None:
        state["killed"] = killed
    return state


def rootfs(metadata: Metadata) -> str:
    """Absolute path of the root file system as the bundle names it."""
    path = (metadata.spec.get("root") or {}).get("path", "")
    return str(Path(metadata.bundle) / path) if path else ""
