"""The destination: start a container that is ours, and remove what is not.

Each step is written down in the ledger (ledger.py) before anything depends on it.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

from formats.errors import WherryError
from migrate.errors import MigrateError
from migrate.ledger import advance, open_ledger
from migrate.messages import PageState, Phase
from runtime.container import Container
from runtime.errors import ContainerError, ContainerNotFoundError, WrongStatusError
from runtime.process import ProcessRef
from runtime.received_bundle import received_bundle, remove_bundle
from runtime.status import Status

log = logging.getLogger(__name__)

END_TIMEOUT_S = 15.0


def commit(root: Path, token: str) -> Phase:
    """Make a prepared container ours, unless its memory was lost already: it has not run then.

    Returns:
        The phase that holds now: COMMITTED or RUNNING when it is ours.
    """
    with open_ledger(root) as entries:
        entry = entries.get(token)
        if entry is None:
            return Phase.UNKNOWN
        if entry.phase is Phase.PREPARED and entry.pages is not PageState.LOST:
            entry.phase, entry.changed = Phase.COMMITTED, time.time()
        return entry.phase


def finish(root: Path, token: str) -> Container:
    """Start a committed container, unless it has been started already.

    Raises:
        WherryError: It cannot be started. If it has not run, it has been removed and given back to
            the source; else, or when nobody knows since it is not there any more (reason
            ``removed-meanwhile``), it is still ours.
    """
    with open_ledger(root) as entries:
        cid = entries[token].container_id
    try:
        container = _start(root, cid)
    except ContainerNotFoundError as exc:
        raise MigrateError(
            f"{cid}: it was removed here, and may have run before", reason="removed-meanwhile"
        ) from exc
    except (WherryError, OSError):
        _judge_failed_start(root, token, cid)
        raise
    advance(root, token, to=Phase.RUNNING, only_from=(Phase.COMMITTED,))
    return container


def _judge_failed_start(root: Path, token: str, cid: str) -> None:
    """Whose a container is that could not be started: that depends on whether it was let go."""
    try:
        held = Container.load(root, cid, exact=True).cgroups.freezing
    except ContainerError:
        return  # who knows: it stays ours
    if held:
        # It never ran, so the source may go on with its own.
        destroy(root, cid)
        advance(root, token, to=Phase.ABORTED, only_from=(Phase.COMMITTED,))
    else:
        advance(root, token, to=Phase.RUNNING, only_from=(Phase.COMMITTED,))


def _start(root: Path, cid: str) -> Container:
    container = Container.load(root, cid, exact=True)
    try:
        if container.status is Status.CREATED:
            container.start()
    except WrongStatusError:
        # Another process that deals with the same handover was faster.
        if container.status not in (Status.RUNNING, Status.STOPPED):
            raise
    return container


def abort(root: Path, token: str) -> Phase:
    """Give up a handover that has not been committed, and remove what was made for it.

    Returns:
        The phase that holds now: ABORTED, or COMMITTED or RUNNING when it is too late.
    """
    undecided = (Phase.RECEIVING, Phase.PREPARED)
    phase = advance(root, token, to=Phase.ABORTED, only_from=undecided)
    if phase is Phase.ABORTED:
        with open_ledger(root) as entries:
            cid = entries[token].container_id
            # A later handover may have brought a container of this id meanwhile.
            unsettled = (*undecided, Phase.COMMITTED)
            others = any(
                other.container_id == cid and name != token and other.phase in unsettled
                for name, other in entries.items()
            )
        if cid and not others and _was_made_for_a_handover(root, cid):
            destroy(root, cid)
    return phase


def _was_made_for_a_handover(root: Path, cid: str) -> bool:
    """Whether the container of this id still waits frozen, as a handover leaves it."""
    try:
        container = Container.load(root, cid, exact=True)
        return container.metadata.frozen_restore
    except ContainerNotFoundError:
        return True  # but perhaps its root file system
    except ContainerError:
        return True  # half created


def destroy(root: Path, cid: str) -> None:
    try:
        Container.load(root, cid, exact=True).destroy(force=True)
    except ContainerNotFoundError:
        remove_bundle(received_bundle(root, cid))
    except ContainerError as exc:
        log.warning("%s: what had arrived of it could not be removed: %s", cid, exc)


def forget(root: Path, token: str) -> None:
    """Drop the record of a handover that both sides have settled."""
    with open_ledger(root) as entries:
        entry = entries.get(token)
        if entry is None or (entry.pages is PageState.WANTED and entry.phase is Phase.RUNNING):
            return
        if entry.phase in (Phase.RUNNING, Phase.ABORTED):
            del entries[token]


def clear_stale(root: Path, cid: str, origin: str) -> None:
    """Remove what an earlier migration has left under an id that is wanted again.

    That is one whose ``receive`` has died, or one of the same container: its source would not
    offer it anew if it had not given up, though the line may have died without telling us so.
    """
    with open_ledger(root) as entries:
        stale = [
            (token, ProcessRef(entry.pid, entry.start_ticks))
            for token, entry in entries.items()
            if entry.container_id == cid and entry.phase in (Phase.RECEIVING, Phase.PREPARED)
        ]
        stale = [
            (token, process)
            for token, process in stale
            if entries[token].source == origin or not process.alive()
        ]
    for token, process in stale:
        log.warning("%s: an earlier migration of it was cut off; removing what it left", cid)
        _end(process)
        abort(root, token)


def _end(process: ProcessRef) -> None:
    """Tell a ``receive`` that waits for a dead line to tidy up, and wait until it has."""
    try:
        pidfd = process.open()
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    finally:
        os.close(pidfd)
    process.wait_gone(END_TIMEOUT_S)
