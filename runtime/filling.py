"""Memory that is still being filled, seen from the commands: who does it, and what became of it.

The two processes (engine/lazy/process.py) stand in the container's record from their first moment,
and so does the reason when they had to kill the container.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import ContainerError
from runtime.metadata import Metadata, read_metadata, update_metadata
from runtime.process import ProcessRef

if TYPE_CHECKING:
    from runtime.engine.lazy.process import Failure, PagerProcesses

FILLING = "filling"
"""In `Metadata.extra`: the pager and the guard."""
KILLED = "killed"
"""In `Metadata.extra`: reason and message, when a container was killed by us."""


def note_pager(directory: Path, processes: PagerProcesses) -> None:
    """Put the processes on record."""
    with update_metadata(directory) as metadata:
        metadata.extra[FILLING] = [process.to_json() for process in processes]


def note_failure(directory: Path, failure: Failure) -> None:
    """Put on record why the container is killed."""
    with update_metadata(directory) as metadata:
        metadata.extra[KILLED] = {"reason": failure.reason, "message": failure.message}


def fillers(metadata: Metadata) -> list[ProcessRef]:
    """The pager and the guard; empty when memory was never filled later. They may have ended."""
    saved = metadata.extra.get(FILLING) or []
    return [process for process in map(ProcessRef.from_json, saved) if process is not None]


def wait_until_filled(directory: Path) -> None:
    """Return when all memory of a container is there.

    Raises:
        ContainerError: It was killed, since that could not be; with the reason.
    """
    for process in fillers(read_metadata(directory)):
        process.wait_gone(None)
    require_memory(directory)


def require_memory(directory: Path) -> None:
    """Refuse a container that was killed, since its memory could not be filled.

    Raises:
        ContainerError: With the reason.
    """
    metadata = read_metadata(directory)
    killed = metadata.extra.get(KILLED)
    if killed is not None:
        raise ContainerError(
            f"container {metadata.id!r} was killed: {killed['message']}", reason=killed["reason"]
        )


def end_filling(metadata: Metadata) -> None:
    """End the processes of a container whose tasks are gone."""
    for process in reversed(fillers(metadata)):  # the guard first: it would take it for a failure
        try:
            pidfd = process.open()
        except ProcessLookupError:
            continue
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)
        process.wait_gone(None)
