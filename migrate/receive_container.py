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
import time
from dataclasses import replace
from pathlib import Path

from formats.elsewhere import ElsewhereImageReader
from formats.errors import Refusal
from migrate import preflight
from migrate.errors import MigrateError, ProtocolError
from migrate.ledger import TOKEN, Entry, advance, open_ledger
from migrate.messages import (
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
    Ready,
    Refuse,
    Running,
)
from migrate.ownership import abort, clear_stale, commit, finish, forget
from migrate.page_source import line_for
from migrate.protocol import DataSource, Peer
from migrate.receive_query import serve_pager
from migrate.receive_rounds import LatePlan, options_of
from migrate.rootfs.bundles import Offered, take_offer
from runtime.container import Container
from runtime.creation import CreateRequest
from runtime.process import ProcessRef
from runtime.restore_container import (
    RestorePlan,
    Restoring,
    plan_from_reader,
    plan_from_source,
)
from runtime.sandbox.descriptors import Stdio

log = logging.getLogger(__name__)

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
        decision = peer.receive(Commit, timeout_s=COMMIT_TIMEOUT_S)
        if decision.token != offer.token:
            raise ProtocolError("the commit is for another handover")
    except BaseException:
        abort(root, offer.token)
        raise
    received = time.monotonic_ns()
    if commit(root, offer.token) not in (Phase.COMMITTED, Phase.RUNNING):
        abort(root, offer.token)
        raise MigrateError(
            f"{offer.container_id}: the handover was aborted meanwhile, or its memory was lost",
            reason="handover-aborted",
        )
    container = finish(root, offer.token)
    _deliver(container, decision.frames)
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
            pages=PageState.WANTED if offer.pages_within_s else PageState.COMPLETE,
        )


def _prepare(peer: Peer, offer: OfferContainer, root: Path, rootfs: Offered | None) -> None:
    tree = None if rootfs is None else rootfs.take(peer)
    started = time.monotonic_ns()
    plan: Restoring
    if offer.rounds:
        late = LatePlan(peer, offer, tree, line_for(offer, root))
        plan, spec, bundle, overlay = late, late.spec, late.bundle, late.overlay
    else:
        if tree is not None:
            tree.take_changes(peer)
        early = _early_plan(peer, offer, root)
        early.handover = offer.token
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


def _early_plan(peer: Peer, offer: OfferContainer, root: Path) -> RestorePlan:
    image, options, far = DataSource(peer), options_of(offer), line_for(offer, root)
    if far is None:
        return plan_from_source(image, None, spec=None, name=offer.container_id, options=options)
    return plan_from_reader(
        ElsewhereImageReader(image),
        image,
        None,
        spec=None,
        name=offer.container_id,
        options=replace(options, lazy=True),
        far=far,
    )
