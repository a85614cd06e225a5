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
from dataclasses import replace
from pathlib import Path

from formats.elsewhere import ElsewhereImageReader
from formats.errors import WherryError
from migrate import preflight
from migrate.errors import MigrateError, ProtocolError
from migrate.ledger import Entry, advance, open_ledger
from migrate.messages import (
    AllHere,
    Answer,
    Commit,
    Done,
    Frames,
    HeldFrame,
    Hello,
    OfferContainer,
    Pages,
    PageState,
    Phase,
    Prepared,
    Query,
    Ready,
    Refuse,
    Running,
    Wish,
)
from migrate.page_source import PAGES, PageLine, hand_over
from migrate.protocol import DataSource, Peer
from migrate.receive_rounds import LatePlan, options_of
from runtime.container import Container
from runtime.creation import CreateRequest
from runtime.errors import ContainerError, ContainerNotFoundError, WrongStatusError
from runtime.filling import KILLED, fillers
from runtime.metadata import read_metadata
from runtime.process import ProcessRef
from runtime.restore_container import (
    RestorePlan,
    Restoring,
    plan_from_reader,
    plan_from_source,
)
from runtime.sandbox.descriptors import Stdio
from runtime.status import Status

log = logging.getLogger(__name__)

TOKEN = re.compile(r"[0-9a-f]{32}")
END_TIMEOUT_S = 15.0
MAX_PATIENCE_S = 86400
COMMIT_TIMEOUT_S = 60.0  # the source says commit at once; later the line is taken for dead


def receive_container(
    peer: Peer, offer: OfferContainer, root: Path, source: Hello, fds: tuple[int, int]
) -> None:
    """Take in the offered container, or refuse it.

    Args:
        peer: The source.
        offer: What it offers.
        root: State root of this host's containers.
        source: Who it is.
        fds: What *peer* is read and written with.

    Raises:
        WherryError: It failed before the commit, and nothing of it is left here; or it could not be
            started after the commit, which the source has been told.
    """
    if not TOKEN.fullmatch(offer.token):
        raise ProtocolError("the token of the offer is malformed")
    origin = f"{source.hostname}:{offer.source_id}"
    if not offer.dry_run:
        clear_stale(root, offer.container_id, origin)
    refusals = preflight.obstacles(root, offer, source, asked_ns=peer.began_ns)
    if refusals:
        peer.send(Refuse.of(refusals))
        return
    if offer.dry_run:
        peer.send(Ready())
        return
    _enter(root, offer, origin)
    try:
        peer.send(Ready())
        _prepare(peer, offer, root)
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
        word = peer.receive_any(Frames, Done, Pages)
        if isinstance(word, Frames):
            _deliver(container, word.frames)
            word = peer.receive_any(Done, Pages)
        if isinstance(word, Pages):
            serve_pager(peer, word, root, fds)
            return
        forget(root, offer.token)


def _deliver(container: Container, frames: tuple[HeldFrame, ...]) -> None:
    container.deliver([(held.interface, held.frame) for held in frames])


def _enter(root: Path, offer: OfferContainer, origin: str) -> None:
    own = ProcessRef.of(os.getpid())
    with open_ledger(root) as entries:
        if offer.token in entries:
            raise ProtocolError("this handover was offered before")
        entries[offer.token] = Entry(
            offer.container_id,
            Phase.RECEIVING,
            own.pid,
            own.start_ticks,
            origin,
            time.time(),
            pages=offer.pages_within_s > 0,
        )


def _prepare(peer: Peer, offer: OfferContainer, root: Path) -> None:
    started = time.monotonic_ns()
    plan: Restoring
    if offer.rounds:
        late = LatePlan(peer, offer)
        plan, spec, bundle, overlay = late, late.spec, late.bundle, late.overlay
    else:
        early = _early_plan(peer, offer)
        plan, spec, bundle, overlay = early, early.spec, early.bundle, early.overlay
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


def _early_plan(peer: Peer, offer: OfferContainer) -> RestorePlan:
    image, options = DataSource(peer), options_of(offer)
    if not offer.pages_within_s:
        return plan_from_source(image, None, spec=None, name=offer.container_id, options=options)
    if not 0 < offer.pages_within_s <= MAX_PATIENCE_S:
        raise ProtocolError(f"nobody waits for {offer.pages_within_s} s")
    return plan_from_reader(
        ElsewhereImageReader(image),
        image,
        None,
        spec=None,
        name=offer.container_id,
        options=replace(options, lazy=True),
        far=PageLine(offer.token, offer.pages_within_s),
    )


def serve_pager(peer: Peer, pages: Pages, root: Path, fds: tuple[int, int]) -> None:
    """Bring the pager of a container that runs here together with the source.

    Args:
        peer: The source.
        pages: Its word.
        root: State root of this host's containers.
        fds: What *peer* is read and written with.

    Raises:
        TransportError: The source has hung up.
        ProtocolError: It says more than it should.
    """
    if not TOKEN.fullmatch(pages.token):
        raise ProtocolError("the token is malformed")
    answer = _answer(root, pages.token)
    if answer.pages is PageState.WANTED:
        if not peer.idle():
            raise ProtocolError("the source does not wait for what it is asked for")
        if hand_over(root / answer.container_id, fds):
            # All that is to be said, the pager has said.
            answer = _answer(root, pages.token)
            if answer.pages is not PageState.COMPLETE:
                return
        else:
            answer = _settled_answer(root, pages.token)
            peer.send(AllHere() if answer.pages is PageState.COMPLETE else answer)
    else:
        settled = answer.phase is Phase.RUNNING and answer.pages is PageState.COMPLETE
        peer.send(AllHere() if settled else answer)
    with contextlib.suppress(MigrateError):
        forget(root, peer.receive(Done).token)


def _settled_answer(root: Path, token: str) -> Answer:
    """When there is no pager any more: what it, or its guard, is about to write down."""
    with contextlib.suppress(ContainerError, FileNotFoundError):
        for process in fillers(read_metadata(root / _answer(root, token).container_id)):
            process.wait_gone(END_TIMEOUT_S)
    return _answer(root, token)


def _answer(root: Path, token: str) -> Answer:
    """What holds of a handover."""
    with open_ledger(root) as entries:
        entry = entries.get(token)
    if entry is None:
        return Answer(Phase.UNKNOWN)
    pages, sentence = PageState.COMPLETE, ""
    if entry.phase is Phase.RUNNING and entry.pages:
        pages, sentence = _page_state(root, entry.container_id, token)
    return Answer(entry.phase, entry.container_id, sentence, pages)


def _page_state(root: Path, cid: str, token: str) -> tuple[PageState, str]:
    """What has become of the memory that was to come later, and why."""
    try:
        # Whether it ended well was written down before it ended.
        over = not any(process.alive() for process in fillers(read_metadata(root / cid)))
        metadata = read_metadata(root / cid)
    except ContainerError as exc:
        return PageState.LOST, str(exc)
    noted = metadata.extra.get(PAGES)
    if noted is None:  # nothing was to come, or it is another container
        return PageState.COMPLETE, ""
    if noted["token"] != token:
        return PageState.LOST, "another container has its id"
    killed = metadata.extra.get(KILLED)
    if killed is not None:
        return PageState.LOST, str(killed["message"])
    if noted["state"] != PageState.WANTED:
        return PageState.COMPLETE, ""
    if not over:
        return PageState.WANTED, ""
    return PageState.LOST, "its pager has vanished"


def _bury(root: Path, token: str) -> Phase:
    """Remove what is left of a container whose memory was lost, so that the source may have it."""
    with open_ledger(root) as entries:
        cid = entries[token].container_id
    try:
        noted = read_metadata(root / cid).extra.get(PAGES)
        if noted is not None and noted["token"] == token:
            _destroy(root, cid)
            read_metadata(root / cid)
            return Phase.RUNNING  # it cannot be removed, and may be alive
    except ContainerNotFoundError:
        pass
    except ContainerError:
        return Phase.RUNNING  # who knows
    return advance(root, token, to=Phase.ABORTED, only_from=(Phase.RUNNING,))


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
        if not others and _was_made_for_a_handover(root, cid):
            _destroy(root, cid)
    return phase


def _was_made_for_a_handover(root: Path, cid: str) -> bool:
    """Whether the container of this id still waits frozen, as a handover leaves it."""
    try:
        container = Container.load(root, cid, exact=True)
        return container.metadata.frozen_restore
    except ContainerNotFoundError:
        return False
    except ContainerError:
        return True  # half created


def _destroy(root: Path, cid: str) -> None:
    try:
        Container.load(root, cid, exact=True).destroy(force=True)
    except ContainerNotFoundError:
        pass
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
    if phase is not Phase.RUNNING or not entry.pages:
        return Answer(phase, entry.container_id, sentence)
    pages, sentence = _page_state(root, entry.container_id, token)
    if pages is PageState.LOST and wish is Wish.ABORT:
        phase = _bury(root, token)
        pages = PageState.COMPLETE if phase is Phase.ABORTED else PageState.LOST
    return Answer(phase, entry.container_id, sentence, pages)
