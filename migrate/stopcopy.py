"""Migration: memory in rounds if wanted, freeze, stream, rebuild over there, hand over.

The image never lies on a disk: it goes from the frozen tasks through one pipe and one SSH channel
into the fresh sandbox. What may fail does so before the commit, and then the container goes on here
as if nothing had happened; from the commit on, the destination's answer decides (handover.py).
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from formats.errors import WherryError
from migrate.dump_worker import DumpWorker
from migrate.errors import MigrateError, RemoteError, TransportError
from migrate.handover import (
    Intent,
    decide,
    give_away,
    settle,
)
from migrate.messages import (
    Abort,
    Answer,
    Commit,
    Done,
    Frames,
    PageState,
    Phase,
    Prepared,
    Query,
    Running,
    Wish,
)
from migrate.modes import may_switch, possible_here, possible_there
from migrate.network import planned, taken
from migrate.offer import make_offer, require_movable
from migrate.postcopy import feed, not_wanted, patience_s
from migrate.precopy import (
    STUBBORN_WITH_POSTCOPY,
    Ended,
    Mode,
    RoundLimits,
    send_rounds,
)
from migrate.protocol import DataSink
from migrate.rate_limit import RateLimit
from migrate.remote import RETRY_FOR_S, Conversation, Route, talk_to
from migrate.report import MigrateReport
from migrate.rootfs.modes import RootfsMode
from migrate.rootfs.outgoing import tree_of
from migrate.rootfs.sending import SentTree
from migrate.transport import Buffer
from runtime.container import Container
from runtime.engine.api import CheckpointOptions, Progress, no_progress
from runtime.ids import validate_id
from runtime.process import ProcessRef
from runtime.status import Status, require_status

if TYPE_CHECKING:
    from migrate.ssh import Ask

log = logging.getLogger(__name__)


def migrate(
    container: Container,
    route: Route,
    *,
    rename: str | None = None,
    bytes_per_s: float | None = None,
    retry_for_s: float = RETRY_FOR_S,
    progress: Progress = no_progress,
    ask: Ask | None = None,
    options: CheckpointOptions | None = None,
    network: Mapping[str, str] | None = None,
    accepted: Sequence[str] = (),
    mode: Mode | None = None,
    limits: RoundLimits | None = None,
    rootfs: RootfsMode = RootfsMode.SHARED,
) -> MigrateReport:
    """Move a running container to another host.

    Args:
        container: Ours; it must run.
        route: How to get there.
        rename: Its id over there, when it is to have another one.
        bytes_per_s: Upper limit of the transfer's rate.
        retry_for_s: How long to look for the destination when the line breaks in the moment of the
            handover.
        progress: Called while it works.
        ask: For passphrases and passwords.
        options: What may be saved although the program, or a peer outside, may notice.
        network: What interfaces of it are to be connected with, see `migrate.network.planned`.
        accepted: Reason codes of `migrate.preflight.ACCEPTABLE` that shall not stand in the way.
        mode: How its memory is to travel; None for the best that both hosts can do.
        limits: Of the rounds of pre-copy.
        rootfs: How its root file system is to go along.

    Raises:
        RefusedError: It cannot be moved, and every reason why; nothing was touched.
        MigrateError, WherryError: It failed; the container goes on here.
        UndecidedError: The line broke after the commit: see handover.settle.
    """
    if rename is not None:
        validate_id(rename)
    require_movable(container)
    report = MigrateReport(rename or container.id, str(route.destination))
    there = planned(container.pid, container.metadata.spec, network or {})
    options = options or CheckpointOptions()
    if there and not options.tcp_close:
        options = replace(options, tcp_established=True)  # for their addresses move as well
    limits = limits or RoundLimits()
    if mode is Mode.HYBRID:
        limits = replace(limits, stubborn=STUBBORN_WITH_POSTCOPY)
    mode = possible_here(mode, report)
    # The worker is forked first, while this process has no threads.
    with contextlib.ExitStack() as opened:
        worker = opened.enter_context(DumpWorker(container, options))
        tree = tree_of(container, rootfs, partial(_limited, bytes_per_s))
        far = opened.enter_context(talk_to(route, ask))
        intent = Intent(secrets.token_hex(16), report.container_id, route, time.time())
        began = time.monotonic_ns()
        report.mode = mode = possible_there(mode, far, limits, report)
        waits = mode.sends_later or may_switch(mode, limits)
        wait_s = patience_s(retry_for_s) if waits else 0
        make_offer(
            *(far, container, intent, there, accepted, tree),
            rounds=mode.has_rounds,
            pages_within_s=wait_s,
        )
        if tree is not None:
            report.rootfs = tree.report
        handover = _Handover(container, intent, far, worker, report, ask, tree)
        handover.run(bytes_per_s, progress, retry_for_s, limits)
        report.total_ns = time.monotonic_ns() - began
    return report


class _Handover:
    """The part of a migration in which the container is frozen."""

    def __init__(
        self,
        container: Container,
        intent: Intent,
        far: Conversation,
        worker: DumpWorker,
        report: MigrateReport,
        ask: Ask | None,
        tree: SentTree | None,
    ) -> None:
        self._tree = tree
        self._container = container
        self._intent = intent
        self._far = far
        self._worker = worker
        self._report = report
        self._ask = ask

    def run(
        self,
        bytes_per_s: float | None,
        progress: Progress,
        retry_for_s: float,
        limits: RoundLimits,
    ) -> None:
        """From the freeze to the end of ours, or back to where we were."""
        with self._container.operation() as status:
            try:
                require_status(self._container.id, status, "migrate", Status.RUNNING)
                if self._tree is not None:
                    self._tree.send(self._far.peer)
                if self._report.mode.has_rounds:
                    self._send_rounds(bytes_per_s, progress, limits)
                self._stream(bytes_per_s, progress)
                self._worker.require_alive()
                decide(self._container, self._intent)
            except BaseException as exc:
                self._give_up(exc)
                raise
            # Ownership is open from here on; the worker will find so in the record, and only the
            # destination's answer closes it.
        if not self._commit(bytes_per_s, retry_for_s):
            return
        with contextlib.suppress(TransportError):
            self._send_stragglers()
        if self._intent.pages:
            self._feed(self._far, bytes_per_s, retry_for_s)
            return
        give_away(self._container)
        # Without this word the destination forgets by itself in time.
        with contextlib.suppress(TransportError):
            self._far.peer.send(Done(self._intent.token))

    def _feed(
        self, far: Conversation | None, bytes_per_s: float | None, retry_for_s: float
    ) -> None:
        """Serve the pages that stayed here; ours is destroyed when all have gone."""
        report = self._report
        pages = feed(
            self._container,
            self._intent,
            far=far,
            ask=self._ask,
            retry_for_s=retry_for_s,
            bytes_per_s=bytes_per_s,
        )
        report.later_sent_bytes, report.faults = pages.sent_bytes, pages.faults
        report.sent_bytes += pages.sent_bytes
        report.complete_ns = pages.elapsed_ns

    def _send_stragglers(self) -> None:
        """What still came here, until everybody had heard where the container is now."""
        if self._worker.taps and "frames" in self._far.hello.features:
            self._far.peer.send(Frames(taken(self._worker.taps)))

    def _send_rounds(
        self, bytes_per_s: float | None, progress: Progress, limits: RoundLimits
    ) -> None:
        rounds = send_rounds(
            self._worker, self._far.peer, limits, partial(_limited, bytes_per_s), progress
        )
        self._report.rounds = rounds.reports
        self._report.rounds_ended = str(rounds.ended)
        self._report.expected_ns = rounds.expected_ns
        if may_switch(self._report.mode, limits) and rounds.ended is not Ended.FITS:
            self._report.mode = Mode.HYBRID

    def _stream(self, bytes_per_s: float | None, progress: Progress) -> None:
        peer, report = self._far.peer, self._report
        sink = DataSink(peer)
        write = _limited(bytes_per_s, sink.write)
        frozen: Callable[[], object] = _nothing
        if self._tree is not None:
            frozen, write = self._tree.before_the_image(peer, write)
        with peer.explaining():
            later = report.mode.sends_later
            dumped = self._worker.dump(write, progress, sink.flush, frozen, postcopy=later)
            report.last_sent_bytes = sink.finish()
        sent = time.monotonic_ns()
        prepared = peer.receive(Prepared)
        self._began = int(dumped["began_ns"])
        self._prepared = time.monotonic_ns()
        report.freeze_ns = int(dumped["freeze_ns"])
        report.dump_ns = int(dumped["collect_ns"]) + int(dumped["write_ns"])
        report.transfer_ns = sent - self._began - report.freeze_ns
        report.restore_ns = self._prepared - sent
        for name, value in dumped["compression"].items():
            setattr(report, name, value)
        report.last_bytes = int(dumped["memory_bytes"])
        report.staged_bytes = int(dumped["staged_bytes"])
        report.later_bytes = int(dumped["later_bytes"])
        report.memory_bytes = report.last_bytes + report.staged_bytes + report.later_bytes
        given = {int(mm_id): ProcessRef.of(pid) for mm_id, pid in dumped["later"].items()}
        self._intent = replace(self._intent, pages=given)
        report.sent_bytes = report.last_sent_bytes + sum(one.sent_bytes for one in report.rounds)
        report.processes, report.tasks = int(dumped["processes"]), int(dumped["tasks"])
        report.warnings += (*dumped.get("warnings", ()), *prepared.warnings)

    def _give_up(self, exc: BaseException) -> None:
        """Before the commit: thaw ours at once, then see that nothing stays over there."""
        self._worker.end()
        if isinstance(exc, RemoteError):
            return  # it failed over there, and has tidied up there
        if isinstance(exc, TransportError):
            # Sending may still seem to work: a channel can be closed in one direction only.
            self._abort_elsewhere()
            return
        try:
            self._far.peer.send(Abort(f"the source gave up: {_first_line(exc)}"))
        except TransportError:
            self._abort_elsewhere()
        except BaseException as further:
            exc.add_note(f"telling the other host failed too: {further}")

    def _abort_elsewhere(self) -> None:
        """The line is gone; what stands over there would keep its id until somebody asks."""
        try:
            with talk_to(self._intent.route, self._ask) as far:
                far.peer.send(Query(self._intent.token, Wish.ABORT))
                far.peer.receive(Answer)
                far.peer.send(Done(self._intent.token))
        except (WherryError, OSError) as exc:
            log.info("%s: the other host cannot be told: %s", self._container.id, exc)

    def _commit(self, bytes_per_s: float | None, retry_for_s: float) -> bool:
        """Say commit and learn that it runs there.

        Returns:
            True when ours is still to be destroyed; False when `settle` has done so.

        Raises:
            MigrateError: The destination gave it back, and it goes on here.
            UndecidedError: Nobody knows yet.
        """
        container, intent = self._container, self._intent
        peer = self._far.peer
        try:
            peer.send(Commit(intent.token, taken(self._worker.taps)))
            peer.receive(Running)
        except MigrateError as exc:
            self._worker.end()
            # Whatever it said or did not say: whether it is ours again, only its book can tell.
            self._settle(bytes_per_s, retry_for_s, exc)
            return False
        except BaseException:
            log.warning(
                "%s: interrupted in the moment of the handover; it stays frozen until"
                " wherry migrate --resume %s",
                container.id,
                container.id,
            )
            raise
        ended = time.monotonic_ns()
        self._report.thaw_ns = ended - self._prepared
        self._report.downtime_ns = ended - self._began
        # Not before: what it holds takes a while to be given back.
        self._worker.end()
        log.info("%s: runs on %s", container.id, intent.route.destination)
        return True

    def _settle(self, bytes_per_s: float | None, retry_for_s: float, cause: MigrateError) -> None:
        answer = settle(
            self._container, self._intent, Wish.FINISH, ask=self._ask, retry_for_s=retry_for_s
        )
        if answer.phase in (Phase.RUNNING, Phase.COMMITTED):
            self._report.downtime_ns = time.monotonic_ns() - self._began
            self._report.thaw_ns = time.monotonic_ns() - self._prepared
            if answer.pages is PageState.WANTED:
                self._feed(None, bytes_per_s, retry_for_s)
            elif answer.pages is PageState.LOST:
                raise not_wanted(self._container, self._intent, answer) from cause
            return
        words = answer.sentence or str(cause)
        raise MigrateError(
            f"{self._container.id}: {self._intent.route.destination} could not start it and gave"
            f" it back ({words}); it goes on here",
            reason="start-failed",
        ) from cause


def _limited(
    bytes_per_s: float | None, write: Callable[[Buffer], object]
) -> Callable[[Buffer], object]:
    return write if bytes_per_s is None else RateLimit(write, bytes_per_s).write


def _nothing() -> None:
    pass


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:500]
