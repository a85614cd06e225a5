"""The states of a container, in the words of the OCI runtime specification.

Source: https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#state
"""

from __future__ import annotations

import enum

from runtime.errors import WrongStatusError


class Status(enum.StrEnum):
    """Where a container is in its life."""

    CREATING = "creating"
    """Being set up by a command that still runs, or left behind by one that was killed."""
    CREATED = "created"
    """Set up; the program has not started. A restored container waits here, frozen."""
    RUNNING = "running"
    """The init process exists and may run."""
    PAUSED = "paused"
    """Frozen by the cgroup freezer. Ours, runc's and gVisor's; not in the OCI specification."""
    STOPPED = "stopped"
    """The init process has ended; only the record is left."""

    @property
    def has_init(self) -> bool:
        """Whether an init process exists in this status."""
        return self in (Status.CREATED, Status.RUNNING, Status.PAUSED)

    @property
    def can_checkpoint(self) -> bool:
        """Whether there is a running program whose state could be saved."""
        return self in (Status.RUNNING, Status.PAUSED)


def require_status(cid: str, status: Status, action: str, *allowed: Status) -> None:
    """Refuse an action that the status does not allow.

    Args:
        cid: The container's id, for the sentence.
        status: The status it has, re-read from the task and not only from the record.
        action: The verb, for the sentence.
        *allowed: The statuses in which the action makes sense.

    Raises:
        WrongStatusError: *status* is not among *allowed*.
    """
    if status not in allowed:
        wanted = " or ".join(allowed)
        raise WrongStatusError(
            f"cannot {action} container {cid!r} in status {status}, needs {wanted}"
        )
