"""Migration: memory in rounds if wanted, freeze, stream, rebuild over there, hand over.

The image never lies on a disk: it goes from the frozen tasks through one pipe and one SSH channel
into the fresh sandbox. What may fail does so before the commit, and then the container goes on here
as if nothing had happened; from the commit on, the destination's answer decides (handover.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formats.errors import Refusal, WherryError
from migrate.dump_worker import DumpWorker
from migrate.errors import MigrateError, RemoteError, TransportError
from migrate.handover import (
    Intent,
    decide,
    give_away,
    intent_of,
    settle,
)
from migrate.messages import (
    Abort,
    Answer,
    Commit,
    Done,
    Frames,
    OfferContainer,
    Outlet,
    Phase,
    Prepared,
    Query,
    Ready,
    Refuse,
    Running,
    Wish,
)
from migrate.network import planned, taken
from migrate.precopy import Mode, RoundLimits, RoundReport, send_rounds
from migrate.protocol import DataSink
from migrate.rate_limit import RateLimit
from migrate.remote import RETRY_FOR_S, Conversation, Route, talk_to
from migrate.rootfs.modes import RootfsMode
from migrate.rootfs.outgoing import bases_of, tree_of
from migrate.rootfs.sending import RootfsReport, SentTree
from migrate.transport import Buffer
from runtime.checkpoint_container import require_checkpoint
from runtime.container import Container
from runtime.engine.api import CheckpointOptions, Progress, no_progress
from runtime.engine.tracking import can_track
from runtime.errors import RefusedError
from runtime.filling import wait_until_filled
from runtime.ids import validate_id
from runtime.status import Status, require_status

if TYPE_CHECKING:
    from migrate.ssh import Ask

log = logging.getLogger(__name__)


@dataclass(slots=True)
class MigrateReport:
    """How a migration went; times in nanoseconds of this host's clock.

    Attributes:
        container_id: At the destination.
        destination: Where it runs now.
        downtime_ns: From the beginning of the freeze here to the word that it runs there.
        freeze_ns: Until every task had stopped.
        dump_ns: Looking at the tasks and writing the image, which leaves while it is written.
        transfer_ns: From the last task stopped to the image's last byte sent; contains dump_ns.
        restore_ns: From the last byte sent to the word that the container stands there, frozen.
        thaw_ns: From that to the word that it runs: both sides' durable decisions, and the thaw.
        memory_bytes: Memory of the tasks that went along.
        sent_bytes: Bytes that travelled, those of rounds included.
        processes: Processes, zombies included.
        tasks: Threads.
        warnings: What was not preserved.
        mode: How its memory travelled.
        total_ns: From the offer to the word that it runs there.
        rounds: The rounds of pre-copy, in the order in which they were sent.
        rounds_ended: Why there was no further one; empty without any.
        expected_ns: How long what the rounds have left was expected to travel.
        staged_bytes: The part of memory_bytes that had come in rounds and was still right.
        last_bytes: The other part, which travelled in the downtime.
        last_sent_bytes: Bytes that travelled in the downtime.
        level: zstd level that most bytes were compressed at, see `formats.adaptive`.
        link_bytes_per_s: What the line took at the last measurement; 0 when too little was sent.
        compress_bytes_per_s: Memory that could be compressed at that level, the same.
        rootfs: How its root file system went along.
    """

    container_id: str
    destination: str
    downtime_ns: int = 0
    freeze_ns: int = 0
    dump_ns: int = 0
    transfer_ns: int = 0
    restore_ns: int = 0
    thaw_ns: int = 0
    memory_bytes: int = 0
    sent_bytes: int = 0
    processes: int = 0
    tasks: int = 0
    warnings: tuple[str, ...] = ()
    mode: Mode = Mode.STOP
    total_ns: int = 0
    rounds: list[RoundReport] = field(default_factory=list)
    rounds_ended: str = ""
    expected_ns: int = 0
    staged_bytes: int = 0
    last_bytes: int = 0
    last_sent_bytes: int = 0
    level: int = 1
    link_bytes_per_s: float = 0.0
    compress_bytes_per_s: float = 0.0
    rootfs: RootfsReport = field(default_factory=RootfsReport)

    @property
    def compression(self) -> float:
        """Bytes of memory for each byte that travelled."""
        in_rounds = sum(report.memory_bytes for report in self.rounds)
        return (in_rounds + self.last_bytes) / max(self.sent_bytes, 1)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "compression": self.compression}


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
    _require_movable(container)
    report = MigrateReport(rename or container.id, str(route.destination))
    there = planned(container.pid, container.metadata.spec, network or {})
    options = options or CheckpointOptions()
    if there and not options.tcp_close:
        options = replace(options, tcp_established=True)  # for their addresses move as well
    if mode is not Mode.STOP:
        why_not = can_track()
        if why_not:
            mode = _without_tracking(mode, report, why_not)
    # The worker is forked first, while this process has no threads.
    with contextlib.ExitStack() as opened:
        worker = opened.enter_context(DumpWorker(container, options))
        tree = tree_of(container, rootfs, partial(_limited, bytes_per_s))
        far = opened.enter_context(talk_to(route, ask))
        intent = Intent(secrets.token_hex(16), report.container_id, route, time.time())
        began = time.monotonic_ns()
        if mode is not Mode.STOP and "precopy" not in far.hello.features:
            why_not = f"wherry {far.hello.wherry} on {route.destination} cannot take rounds in"
            mode = _without_tracking(mode, report, why_not)
        report.mode = mode or Mode.PRECOPY
        rounds = report.mode is Mode.PRECOPY
        _offer(far, container, intent, there, accepted, tree, rounds=rounds)
        if tree is not None:
            report.rootfs = tree.report
        handover = _Handover(container, intent, far, worker, report, ask, tree)
        handover.run(bytes_per_s, progress, retry_for_s, limits or RoundLimits())
        report.total_ns = time.monotonic_ns() - began
    return report


def obstacles(
    container: Container,
    route: Route,
    *,
    rename: str | None = None,
    ask: Ask | None = None,
    network: Mapping[str, str] | None = None,
    accepted: Sequence[str] = (),
    rootfs: RootfsMode = RootfsMode.SHARED,
) -> list[Refusal]:
    """What the destination has against a container; nothing is touched on either side.

    Args:
        container, route, rename, ask, network, accepted, rootfs: As for `migrate`.

    Raises:
        MigrateError, WherryError: It cannot be asked, or the container cannot be moved now.
    """
    if rename is not None:
        validate_id(rename)
    _require_movable(container)
    there = planned(container.pid, container.metadata.spec, network or {})
    tree = tree_of(container, rootfs, partial(_limited, None))
    with talk_to(route, ask) as far:
        if "dry-run" not in far.hello.features:
            raise MigrateError(
                f"wherry {far.hello.wherry} on {route.destination} cannot be asked beforehand",
                reason="missing-feature",
            )
        intent = Intent(secrets.token_hex(16), rename or container.id, route, time.time())
        try:
            _offer(far, container, intent, there, accepted, tree, dry_run=True)
        except RefusedError as exc:
            return list(exc.refusals)
    return []


def _without_tracking(wanted: Mode | None, report: MigrateReport, why_not: str) -> Mode:
    """What to do when there can be no rounds: as well without, unless they were asked for."""
    if wanted is Mode.PRECOPY:
        raise MigrateError(
            f"{report.container_id}: no pre-copy: {why_not}; use --mode stop",
            reason="no-write-tracking",
        )
    report.warnings = (*report.warnings, f"migrated without pre-copy: {why_not}")
    return Mode.STOP


def _require_movable(container: Container) -> None:
    pending = intent_of(container.metadata)
    if pending is not None:
        raise MigrateError(
            f"{container.id}: a migration to {pending.route.destination} is not settled; see"
            f" wherry migrate --status {container.id}",
            reason="handover-pending",
        )
    wait_until_filled(container.directory)
    status = container.status
    require_status(container.id, status, "migrate", Status.RUNNING)
    require_checkpoint(container, status)


def _offer(
    far: Conversation,
    container: Container,
    intent: Intent,
    there: Sequence[Outlet],
    accepted: Sequence[str],
    tree: SentTree | None,
    *,
    rounds: bool = False,
    dry_run: bool = False,
) -> None:
    if "container-stream" not in far.hello.features:
        raise MigrateError(
            f"wherry {far.hello.wherry} on {intent.route.destination} cannot receive containers",
            reason="missing-feature",
        )
    if tree is not None and "rootfs" not in far.hello.features:
        raise MigrateError(
            f"wherry {far.hello.wherry} on {intent.route.destination} cannot take a root file"
            " system in",
            reason="missing-feature",
        )
    metadata = container.metadata
    far.peer.send(
        OfferContainer(
            token=intent.token,
            container_id=intent.remote_id,
            source_id=metadata.id,
            bundle=metadata.bundle,
            spec=metadata.spec,
            memory_bytes=_memory_of(container.cgroups.pids()),
            outlets=tuple(there),
            disk_bytes=_disk_of(metadata.overlay) + (0 if tree is None else tree.needed_bytes),
            time_ns=time.time_ns(),
            accepted=tuple(accepted),
            dry_run=dry_run,
            rounds=rounds,
            overlay=metadata.overlay is not None,
            hash_seed=str((metadata.overlay or {}).get("hash_seed", "")),
            rootfs=str(RootfsMode.SHARED if tree is None else tree.mode),
            rootfs_bases=bases_of(container),
        )
    )
    if tree is not None:
        tree.offer(far.peer)
    answer = far.peer.receive_any(Ready, Refuse)
    if isinstance(answer, Refuse):
        raise RefusedError(
            f"cannot migrate {container.id} to {intent.route.destination}", answer.refusals
        )


def _disk_of(overlay: Mapping[str, Any] | None) -> int:
    """What the container has changed of its files."""
    if overlay is None:
        return 0
    total = 0
    for top, _, names in os.walk(overlay["upper"]):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it runs
                total += os.lstat(f"{top}/{name}").st_blocks * 512
    return total


def _memory_of(pids: list[int]) -> int:
    """About what the tasks occupy: shared memory counts once per process."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) << 10
    return total


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
                if self._report.mode is Mode.PRECOPY:
                    self._send_rounds(bytes_per_s, progress, limits)
                self._stream(bytes_per_s, progress)
                decide(self._container, self._intent)
            except BaseException as exc:
                self._give_up(exc)
                raise
            # Ownership is open from here on; the worker will find so in the record, and only the
            # destination's answer closes it.
        if self._commit(retry_for_s):
            with contextlib.suppress(TransportError):
                self._send_stragglers()
            give_away(self._container)
            # Without this word the destination forgets by itself in time.
            with contextlib.suppress(TransportError):
                self._far.peer.send(Done(self._intent.token))

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

    def _stream(self, bytes_per_s: float | None, progress: Progress) -> None:
        peer, report = self._far.peer, self._report
        sink = DataSink(peer)
        write = _limited(bytes_per_s, sink.write)
        frozen: Callable[[], object] = _nothing
        if self._tree is not None:
            frozen, write = self._tree.before_the_image(peer, write)
        with peer.explaining():
            dumped = self._worker.dump(write, progress, sink.flush, frozen)
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
        report.memory_bytes = report.last_bytes + report.staged_bytes
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

    def _commit(self, retry_for_s: float) -> bool:
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
            self._settle(retry_for_s, exc)
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

    def _settle(self, retry_for_s: float, cause: MigrateError) -> None:
        answer = settle(
            self._container, self._intent, Wish.FINISH, ask=self._ask, retry_for_s=retry_for_s
        )
        if answer.phase in (Phase.RUNNING, Phase.COMMITTED):
            self._report.downtime_ns = time.monotonic_ns() - self._began
            self._report.thaw_ns = time.monotonic_ns() - self._prepared
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
