"""Annotations that say how containers share a sandbox, as Kubernetes' runtimes write them.

Source: https://github.com/containerd/containerd/blob/main/internal/cri/annotations/annotations.go
and https://github.com/cri-o/cri-o/blob/main/pkg/annotations/annotations.go
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from runtime.errors import SpecError

# containerd's names, then CRI-O's.
CONTAINER_TYPE = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")
SANDBOX_ID = ("io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID")


class ContainerType(enum.StrEnum):
    """A container's part in its sandbox."""

    SINGLE = "single"
    """No annotation: a sandbox of its own, which nobody joins by name."""
    SANDBOX = "sandbox"
    """The root container: it makes the sandbox, and takes it down at its end."""
    CONTAINER = "container"
    """It joins the sandbox of another one."""


@dataclass(frozen=True, slots=True)
class SandboxRole:
    """What the annotations say.

    Attributes:
        type: The container's part.
        sandbox_id: The id of the sandbox's root container; None unless *type* is CONTAINER.
    """

    type: ContainerType
    sandbox_id: str | None = None


def sandbox_role(annotations: Mapping[str, str]) -> SandboxRole:
    """Read a container's part in its sandbox from its annotations.

    Raises:
        SpecError: The type is unknown, or a ``container`` names no sandbox.
    """
    type_key, type_value = _find(annotations, CONTAINER_TYPE)
    if type_value is None:
        return SandboxRole(ContainerType.SINGLE)
    if type_value == ContainerType.SANDBOX:
        return SandboxRole(ContainerType.SANDBOX)
    if type_value != ContainerType.CONTAINER:
        raise SpecError(
            f"annotations[{type_key}] is {type_value!r}, must be 'sandbox' or 'container'"
        )
    id_key, sandbox_id = _find(annotations, SANDBOX_ID)
    if not sandbox_id:
        raise SpecError(f"annotations[{id_key}] is missing, a 'container' needs its sandbox's id")
    return SandboxRole(ContainerType.CONTAINER, sandbox_id)


def _find(annotations: Mapping[str, str], keys: tuple[str, ...]) -> tuple[str, str | None]:
    for key in keys:
        if key in annotations:
            return key, annotations[key]
    return keys[0], None
