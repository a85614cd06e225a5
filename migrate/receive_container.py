"""The destination of a migration: take a container in, frozen, and start it when it is ours.

Every step that decides who owns the container goes through the ledger (ledger.py), because the
connection can break at any moment and another ``receive`` may come to ask. What is true when:

* RECEIVING: an image arrives. Whoever finds the connection gone may abort.
* PREPARED: the container stands here frozen and belongs to the source. The same.
* COMMITTED: it is ours, whatever happens to the connection. It is started, by us or by the next
  one who asks; only if it cannot be started, and so has never run, is it given back (ABORTED).
* RUNNING: it has been started here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import time
from pathlib import Path

from formats.errors import Refusal, WherryError
from migrate import preflight
from migrate.errors import MigrateError, ProtocolError
from migrate.ledger import Entry, advance, open_ledger
from migrate.messages import (
    Answer,
    Commit,
    Done,
    Frames,
    HeldFrame,
    Hello,
    OfferContainer,
    Phase,
    Prepared,
    Query,
    Ready,
    Refuse,
    Running,
    Wish,
)
from migrate.protocol import DataSource, Peer
from migrate.receive_rounds import LatePlan, options_of
from migrate.rootfs.bundles import Offered, take_offer
from runtime.container import Container
from runtime.creation import CreateRequest
from runtime.errors import ContainerError, ContainerNotFoundError, WrongStatusError
from runtime.process import ProcessRef
from runtime.received_bundle import received_bundle, remove_bundle
from runtime.restore_container import Restoring, plan_from_source
from runtime.sandbox.descriptors import Stdio
from runtime.status import Status

log = logging.getLogger(__name__)

TOKEN = re.compile(r"[0-9a-f]{32}")
END_TIMEOUT_S = 15.0
COMMIT_TIMEOUT_S = 60.0  # the source says commit at once; later the line is taken for dead


def receive_container(peer: Peer, offer: OfferContainer, root: Path, source: Hello) -> None:
    """Take in the offered container, or refuse it.

    Raises:
        WherryError: It failed before the commit, and nothing of it is left here; or it could not be
            started after the commit, which the source has been told.
    """
    if not TOKEN.fullmatch(offer.token):
        raise ProtocolError("the token of the offer is malformed")
    rootfs = take_offer(peer, offer, root)
    if os.geteuid() != 0:
        sentence = "wherry runs there without root's rights; try --remote-command 'sudo wherry'"
        peer.send(Refuse.of([Refusal("not-root", os.uname().nodename, sentence)]))
        return
    origin = f"{source.hostname}:{offer.source_id}"
    if not offer.dry_run:
        clear_stale(root, offer.container_id, origin)
    refusals = preflight.obstacles(root, offer, source, asked_ns=peer.began_ns)
    if rootfs is not None:
        refusals += rootfs.obstacles(peer)
    if refusals:
        peer.send(Refuse.of(refusals))
        return
    if offer.dry_run:
        peer.send(Ready())
        return
    _enter(root, offer, origin)
    try:
        peer.send(Ready())
        _prepare(peer, offer, root, rootfs)
        commit = peer.receive(Commit, timeout_s=COMMIT_TIMEOUT_S)
        if commit.token != offer.token:
            raise ProtocolError("the commit is for another handover")
    except BaseException:
        abort(root, offer.token)
        raise
    received = time.monotonic_ns()
    if advance(root, offer.token, to=Phase.COMMITTED, only_from=(Phase.PREPARED,)) in (
        Phase.ABORTED,
        Phase.UNKNOWN,
    ):
        abort(root, offer.token)
        raise MigrateError(
            f"{offer.container_id}: the handover was aborted meanwhile", reason="handover-aborted"
        )
    container = finish(root, offer.token)
    _deliver(container, commit.frames)
    peer.send(Running(time.monotonic_ns() - received, container.pid))
    # The record may be forgotten when the source has settled its side; if it never says so, time
    # will do it.
    with contextlib.suppress(MigrateError):
        word = peer.receive_any(Frames, Done)
        if isinstance(word, Frames):
            _deliver(container, word.frames)
            peer.receive(Done)
        forget(root, offer.token)


def _deliver(container: Container, frames: tuple[HeldFrame, ...]) -> None:
    container.deliver([(held.interface, held.frame) for held in frames])


def _enter(root: Path, offer: OfferContainer, origin: str) -> None:
    own = ProcessRef.of(os.getpid())
    with open_ledger(root) as entries:
        if offer.token in entries:
            raise ProtocolError("this handover was offered before")
        entries[offer.token] = Entry(
            offer.container_id, Phase.RECEIVING, own.pid, own.start_ticks, origin, time.time()
        )


def _prepare(peer: Peer, offer: OfferContainer, root: Path, rootfs: Offered | None) -> None:
    tree = None if rootfs is None else rootfs.take(peer)
    started = time.monotonic_ns()
    plan: Restoring
    if offer.rounds:
        late = LatePlan(peer, offer, tree)
        plan, spec, bundle, overlay = late, late.spec, late.bundle, late.overlay
    else:
        if tree is not None:
            tree.take_changes(peer)
        early = plan_from_source(
            DataSource(peer),
            None,
            spec=None,
            name=offer.container_id,
            options=options_of(offer),
        )
        plan, spec, bundle, overlay = early, early.spec, early.bundle, early.overlay
    if rootfs is not None:
        spec, bundle = rootfs.relocated(spec, bundle)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        # Its standard streams lead nowhere here: what they led to stayed at the source.
        request = CreateRequest(
            cid=offer.container_id,
            spec=spec,
            bundle=bundle,
            stdio=Stdio(null, null, null),
            overlay=overlay,
            restore=plan,
        )
        Container.create(root, request)
    finally:
        os.close(null)
    # The stream was read by the process that stays with the container, through a copy of ours.
    peer.forget_input()
    phase = advance(root, offer.token, to=Phase.PREPARED, only_from=(Phase.RECEIVING,))
    if phase is not Phase.PREPARED:
        raise MigrateError(
            f"{offer.container_id}: the handover was aborted meanwhile", reason="handover-aborted"
        )
    peer.send(Prepared(time.monotonic_ns() - started))


def finish(root: Path, token: str) -> Container:
    """Start a committed container, unless it has been started already.

    Raises:
        WherryError: It cannot be started; it has been removed and given back to the source.
    """
    with open_ledger(root) as entries:
        cid = entries[token].container_id
    try:
        container = _start(root, cid)
    except (WherryError, OSError):
        # It never ran, so the source may go on with its own.
        _destroy(root, cid)
        advance(root, token, to=Phase.ABORTED, only_from=(Phase.COMMITTED,))
        raise
    advance(root, token, to=Phase.RUNNING, only_from=(Phase.COMMITTED,))
    return container


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
            _destroy(root, cid)
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


def _destroy(root: Path, cid: str) -> None:
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
        if entry is not None and entry.phase in (Phase.RUNNING, Phase.ABORTED):
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


def answer_query(peer: Peer, query: Query, root: Path) -> None:
    """Tell what has become of a handover, after doing what the source wishes.

    Raises:
        ProtocolError: The token is malformed.
    """
    if not TOKEN.fullmatch(query.token):
        raise ProtocolError("the token of the query is malformed")
    peer.send(_settle(root, query))
    with contextlib.suppress(MigrateError):
        forget(root, peer.receive(Done).token)


def _settle(root: Path, query: Query) -> Answer:
    token, wish = query.token, query.wish
    with open_ledger(root) as entries:
        entry = entries.get(token)
        if entry is None and wish is not Wish.ASK:
            # From now on nothing can come of it, even if its ``receive`` is still on the way.
            entry = entries[token] = Entry("", Phase.ABORTED, changed=time.time())
    if entry is None:
        return Answer(Phase.UNKNOWN)
    phase, sentence = entry.phase, ""
    if wish is Wish.FINISH:
        phase = advance(root, token, to=Phase.COMMITTED, only_from=(Phase.PREPARED,))
    if wish is not Wish.ASK:
        phase = abort(root, token)
    if phase is Phase.COMMITTED and wish is not Wish.ASK:
        try:
            finish(root, token)
            phase = Phase.RUNNING
        except (WherryError, OSError) as exc:
            phase, sentence = Phase.ABORTED, str(exc)
    return Answer(phase, entry.container_id, sentence)
