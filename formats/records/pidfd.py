"""Descriptors of processes."""

from __future__ import annotations

from dataclasses import dataclass

from formats.records.codec import record
from formats.records.files import Owner


@record("file-pidfd")
@dataclass(frozen=True, slots=True)
class PidFd:
    """A descriptor of a process or thread, pidfd_open(2).

    Attributes:
        file_id: Id.
        flags: O_NONBLOCK and O_EXCL, which is PIDFD_THREAD.
        pid: The task, in the container's namespace; 0 when it is gone and was waited for.
        identity: The same for all descriptors of one task that is gone.
        exit_status: Its wait status, as far as the kernel knew it.
        owner: SIGIO's, or None.
    """

    file_id: int
    flags: int
    pid: int
    identity: int = 0
    exit_status: int = 0
    owner: Owner | None = None
