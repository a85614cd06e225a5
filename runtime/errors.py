"""Failures of the runtime, in the words of the container that had them."""

from __future__ import annotations

from collections.abc import Sequence

from formats.errors import Refusal, WherryError


class ContainerError(WherryError):
    """An operation on a container failed."""

    exit_code = 20
    default_reason = "container-error"


class ContainerNotFoundError(ContainerError):
    """No container has this id."""

    exit_code = 21
    default_reason = "no-such-container"


class AmbiguousIdError(ContainerError):
    """An abbreviated id fits several containers."""

    exit_code = 22
    default_reason = "ambiguous-id"


class ContainerExistsError(ContainerError):
    """The id is taken."""

    exit_code = 23
    default_reason = "container-exists"


class WrongStatusError(ContainerError):
    """The container's status does not allow the operation."""

    exit_code = 24
    default_reason = "wrong-status"


class SpecError(ContainerError):
    """The OCI configuration is invalid or asks for something unsupported; names its path."""

    exit_code = 25
    default_reason = "spec"


class HookError(ContainerError):
    """An OCI hook failed."""

    exit_code = 26
    default_reason = "hook-failed"


class TaskVanishedError(ContainerError):
    """A task ended while we worked on it."""

    exit_code = 27
    default_reason = "task-vanished"


class RefusedError(ContainerError):
    """Something was refused, by name, before anything was touched.

    Attributes:
        refusals: Every reason that was found, not only the first.
    """

    exit_code = 30
    default_reason = "refused"

    def __init__(self, action: str, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        first = self.refusals[0]
        lines = "; ".join(str(refusal) for refusal in self.refusals)
        super().__init__(f"{action}: {lines}", reason=first.reason)


class RestoreError(ContainerError):
    """The kernel refused a step of a restore; nothing of the new container is left."""

    exit_code = 31
    default_reason = "restore-failed"


class CheckpointError(ContainerError):
    """A checkpoint failed; the container is as it was."""

    exit_code = 32
    default_reason = "checkpoint-failed"


class MissingFeatureError(ContainerError):
    """The kernel or the installation lacks something that was asked for."""

    exit_code = 33
    default_reason = "missing-feature"
