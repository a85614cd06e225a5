"""The rounds of a live migration: when there is another one, and when they end.

A round sends the memory that was written to since the round before, while the container runs. What
it writes to meanwhile is the next round's. So rounds shrink as long as memory travels faster than
it is written to, and what is left at the end travels while the container is frozen.
"""

from __future__ import annotations

import enum
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from migrate.errors import MigrateError, ProtocolError
from migrate.messages import Round, RoundsEnd, RoundStaged
from migrate.protocol import DataSink, Peer
from migrate.transport import Buffer
from runtime.engine.api import Progress

if TYPE_CHECKING:
    from migrate.dump_worker import DumpWorker

log = logging.getLogger(__name__)

DEFAULT_ROUNDS = 30
DEFAULT_DOWNTIME_S = 0.1
ENOUGH, IDEAL = 0.5, 0.05
"""Parts of the budget that the rest may take: if it does not shrink any more, and if it does."""
SHRINKS = 0.9
"""A round is a step forward when it leaves less than this part of the least so far."""
LEAST_SHARE = 1 / 32
STUBBORN = 3
STUBBORN_WITH_POSTCOPY = 1
"""Rounds in a row without a step forward; what they leave costs no downtime with post-copy."""
_DOWNTIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)")
SCATTERED_PAGE_S = 0.0001
"""What a page costs that lies alone, as most do at the end: to read it here, to write it there."""
PAGE_SIZE = 4096
MEASURABLE = 4 << 20  # bytes; a smaller round says little about the rate


def parse_downtime(text: str) -> float:
    """Seconds from ``80ms``, ``0.5s`` or ``2s``.

    Raises:
        MigrateError: It is none, or zero; reason ``bad-downtime``.
    """
    match = _DOWNTIME.fullmatch(text.strip())
    seconds = float(match[1]) * (1e-3 if match[2] == "ms" else 1.0) if match else 0.0
    if seconds <= 0:
        raise MigrateError(f"downtime {text!r} is not like 80ms or 0.5s", reason="bad-downtime")
    return seconds


class Mode(enum.StrEnum):
    """How memory travels."""

    STOP = "stop"
    """All of it while the container is frozen."""
    PRECOPY = "precopy"
    """In rounds while it runs, and the rest while it is frozen."""
    POSTCOPY = "postcopy"
    """When it runs at the destination: first what it asks for, then all the rest."""
    HYBRID = "hybrid"
    """In rounds while it runs, and what they leave when it runs at the destination."""

    @property
    def has_rounds(self) -> bool:
        return self in (Mode.PRECOPY, Mode.HYBRID)

    @property
    def sends_later(self) -> bool:
        return self in (Mode.POSTCOPY, Mode.HYBRID)


class Ended(enum.StrEnum):
    """Why there was no further round."""

    FITS = "fits"
    """What is left fits the downtime budget."""
    NOT_SHRINKING = "not-shrinking"
    """Memory is written to as fast as it travels."""
    LIMIT = "limit"
    """As many rounds as were allowed."""


class OnNoConvergence(enum.StrEnum):
    """What to do when the rounds end although what is left does not fit the budget."""

    GO_ON = "go-on"
    """Migrate all the same, with a longer downtime."""
    GIVE_UP = "give-up"
    """Let it stay where it is."""
    POSTCOPY = "postcopy"
    """Go on as in `Mode.HYBRID`: the rest follows when it runs at the destination."""
    THROTTLE = "throttle"
    """Give it less and less processor time, as long as that helps; then migrate all the same."""


@dataclass(frozen=True, slots=True)
class RoundLimits:
    """What was asked for.

    Attributes:
        rounds: At most so many.
        max_downtime_s: How long the container may stand still.
        on_no_convergence: What to do when that cannot be had.
        stubborn: So many rounds in a row without a step forward are the end.
    """

    rounds: int = DEFAULT_ROUNDS
    max_downtime_s: float = DEFAULT_DOWNTIME_S
    on_no_convergence: OnNoConvergence = OnNoConvergence.GO_ON
    stubborn: int = STUBBORN


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One round; times in nanoseconds.

    Attributes:
        number: From 1 on.
        began_ns: From the beginning of the first round to that of this one.
        elapsed_ns: Until all of it stood at the destination.
        scan_ns: Looking for what was written to.
        pages: That it sent.
        memory_bytes: The same in bytes.
        sent_bytes: As they travelled.
        dirty_bytes_per_s: How fast the container wrote to memory not written to before, since the
            round before; 0 in the first one.
        left_bytes: Written to by the end of the round.
        freezes: How often the container stood still for a moment.
        cpu_share: The part of all processors that it was allowed.
        level: zstd level at the end of the round.
    """

    number: int
    began_ns: int
    elapsed_ns: int
    scan_ns: int
    pages: int
    memory_bytes: int
    sent_bytes: int
    dirty_bytes_per_s: float
    left_bytes: int
    freezes: int
    cpu_share: float
    level: int = 1

    @property
    def bytes_per_s(self) -> float:
        """How fast memory travelled."""
        return self.memory_bytes / max(self.elapsed_ns, 1) * 1e9


@dataclass(slots=True)
class Rounds:
    """How the rounds went.

    Attributes:
        reports: Each of them.
        ended: Why there was no further one; None while they go on.
        expected_ns: How long what is left takes to travel, by the measured rate.
        cpu_share: The part of all processors that the container is allowed.
    """

    reports: list[RoundReport] = field(default_factory=list)
    ended: Ended | None = None
    expected_ns: int = 0
    cpu_share: float = 1.0
    _since: int = 0  # the first report since the last change of the share

    def throttled(self) -> bool:
        """Lower the share; whether it was not at its lowest."""
        if self.cpu_share <= LEAST_SHARE:
            return False
        self.cpu_share /= 2
        self._since = len(self.reports)
        return True

    def judge(self, limits: RoundLimits) -> Ended | None:
        """Whether, and why, the last round was the last one."""
        left = [report.left_bytes for report in self.reports[self._since :]]
        telling = [r for r in self.reports if r.memory_bytes >= MEASURABLE] or self.reports
        rate = max(report.bytes_per_s for report in telling)
        expected_s = left[-1] / max(rate, 1.0) + left[-1] / PAGE_SIZE * SCATTERED_PAGE_S
        self.expected_ns = int(expected_s * 1e9)
        if expected_s <= IDEAL * limits.max_downtime_s:
            return Ended.FITS
        last, before = left[-limits.stubborn :], left[: -limits.stubborn]
        stuck = bool(before) and min(last) >= SHRINKS * min(before)
        over = len(self.reports) >= limits.rounds
        if over or stuck:
            if expected_s <= ENOUGH * limits.max_downtime_s:
                return Ended.FITS
            return Ended.LIMIT if over else Ended.NOT_SHRINKING
        return None


def send_rounds(
    worker: DumpWorker,
    peer: Peer,
    limits: RoundLimits,
    through: Callable[[Callable[[Buffer], object]], Callable[[Buffer], object]],
    progress: Progress,
) -> Rounds:
    """Send rounds for as long as it is worth it.

    Args:
        worker: Looks at the container.
        peer: The destination, which has said that it is ready.
        limits: What was asked for.
        through: Puts a rate limit around a write function.
        progress: Told of the memory that is sent.

    Raises:
        MigrateError: They do not converge, and that is not wanted (reason ``no-convergence``); the
            other side failed, or the line broke.
        ContainerError: The container could not be looked at.
    """
    rounds = Rounds()
    first = time.monotonic_ns()
    while rounds.ended is None:
        report = _send_round(worker, peer, rounds, first, through)
        rounds.reports.append(report)
        rounds.ended = rounds.judge(limits)
        if (
            rounds.ended is Ended.NOT_SHRINKING
            and limits.on_no_convergence is OnNoConvergence.THROTTLE
            and rounds.throttled()
        ):
            worker.throttle(rounds.cpu_share)
            rounds.ended = None
        progress(f"round {report.number}", report.memory_bytes, report.memory_bytes)
        log.info(
            "pre-copy round %d: %d pages, %d bytes sent in %.1f ms; %d bytes are left",
            report.number,
            report.pages,
            report.sent_bytes,
            report.elapsed_ns / 1e6,
            report.left_bytes,
        )
    if rounds.ended is not Ended.FITS and limits.on_no_convergence is OnNoConvergence.GIVE_UP:
        raise MigrateError(
            f"after {len(rounds.reports)} rounds {report.left_bytes >> 10} KiB are left, which take"
            f" {rounds.expected_ns / 1e6:.0f} ms; allow more with --max-downtime, or migrate all"
            " the same with --on-no-convergence go-on",
            reason="no-convergence",
        )
    peer.send(RoundsEnd(len(rounds.reports)))
    return rounds


def _send_round(
    worker: DumpWorker,
    peer: Peer,
    rounds: Rounds,
    first: int,
    through: Callable[[Callable[[Buffer], object]], Callable[[Buffer], object]],
) -> RoundReport:
    number = len(rounds.reports) + 1
    began = time.monotonic_ns()
    with peer.explaining():
        peer.send(Round(number))
        sink = DataSink(peer)
        done = worker.round(through(sink.write), _no_progress, sink.flush)
        sent = sink.finish()
    staged = peer.receive(RoundStaged)
    if staged.number != number or staged.root.hex() != done["root"]:
        raise ProtocolError(f"the far side has taken in another round than round {number}")
    elapsed = time.monotonic_ns() - began
    since_s = done["since_ns"] / 1e9
    return RoundReport(
        number=number,
        began_ns=began - first,
        elapsed_ns=elapsed,
        scan_ns=done["scan_ns"],
        pages=done["pages"],
        memory_bytes=done["memory_bytes"],
        sent_bytes=sent,
        dirty_bytes_per_s=done["memory_bytes"] / since_s if since_s else 0.0,
        left_bytes=worker.left(),
        freezes=done["freezes"],
        cpu_share=rounds.cpu_share,
        level=done["level"],
    )


def _no_progress(stage: str, done: int, total: int) -> None:
    """A round is told of when it is over."""
