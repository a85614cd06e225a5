"""Post-copy, the source's side: a frozen container whose memory is given page by page.

It was given away (handover.py) and runs at the destination, which asks for what it has not got.
Ours stays frozen as the only place where that is, until the destination says that all of it has
come. Whoever serves needs nothing but the record of the handover: when this command is killed,
another one goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from formats.compression import Compressor
from formats.errors import ImageCorruptError
from formats.staged import unpack_ranges
from migrate.errors import LoginError, MigrateError, ProtocolError, TransportError, UndecidedError
from migrate.handover import (
    Intent,
    forgotten,
    give_away,
    is_forgotten,
    moment,
    note_ran,
)
from migrate.messages import (
    AllHere,
    Answer,
    Done,
    Failed,
    PageContent,
    PageRequest,
    Pages,
    Phase,
)
from migrate.protocol import MAX_DATA_SIZE, Peer
from migrate.rate_limit import RateLimit
from migrate.remote import RETRY_PAUSE_S, Conversation, talk_to
from runtime.container import Container
from runtime.engine.dump_memory import read_exactly
from runtime.engine.ranges import size_of
from runtime.process import ProcessRef

if TYPE_CHECKING:
    from migrate.ssh import Ask

log = logging.getLogger(__name__)

PATIENCE = 10
"""The destination waits so many times as long for us as we try to reach it: somebody may have to
say ``--resume``."""
LEAST_PATIENCE_S = 2
HEARD_TIMEOUT_S = 3.0


@dataclass(slots=True)
class PagesReport:
    """What was served.

    Attributes:
        memory_bytes: Memory that was asked for.
        sent_bytes: The same as it travelled.
        faults: How often the program had to wait for it.
        elapsed_ns: From the first word to the last, nanoseconds.
        connections: How many it took.
    """

    memory_bytes: int = 0
    sent_bytes: int = 0
    faults: int = 0
    elapsed_ns: int = 0
    connections: int = 0


def patience_s(retry_for_s: float) -> int:
    """How many seconds the destination is asked to wait for a source that is gone."""
    return max(LEAST_PATIENCE_S, int(retry_for_s * PATIENCE))


class PageServer:
    """Reads the memory of frozen processes; a context manager.

    Args:
        processes: By address space.

    Raises:
        MigrateError: They are not those of the handover any more.
    """

    def __init__(self, processes: Mapping[int, ProcessRef], bytes_per_s: float | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._compressor = Compressor()
        self._memory: dict[int, int] = {}
        self.report = PagesReport()
        with contextlib.ExitStack() as opened:
            for mm_id, process in processes.items():
                try:
                    fd = os.open(f"/proc/{process.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
                except OSError as exc:
                    raise _gone() from exc
                opened.callback(os.close, fd)
                # After the open: the descriptor stays with the address space that it is of.
                if not process.alive():
                    raise _gone()
                self._memory[mm_id] = fd
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    def serve(self, peer: Peer, token: str) -> AllHere | Answer:
        """Give what is asked for; returns the word that ends it.

        Raises:
            TransportError: The connection broke.
            MigrateError: The memory is not there any more, or the far side failed.
        """
        self.report.connections += 1
        peer.send(Pages(token))
        write: Callable[[bytes], object] = peer.send_data
        if self._bytes_per_s is not None:
            write = RateLimit(peer.send_data, self._bytes_per_s).write
        while True:
            message = peer.receive_any(PageRequest, AllHere, Answer)
            if isinstance(message, AllHere | Answer):
                return message
            assert isinstance(message, PageRequest)
            try:
                plain = self._read(message)
            except OSError as exc:
                _fail(peer, f"the memory cannot be read: {exc.strerror}")
                raise _gone() from exc
            packed = self._compressor.compress(plain)
            body = bytes(plain) if packed is None else packed
            peer.send(PageContent(len(plain), len(body)))
            write(body)
            self.report.memory_bytes += len(plain)
            self.report.sent_bytes += len(body)

    def _read(self, request: PageRequest) -> bytearray:
        try:
            ranges = unpack_ranges(request.ranges, request.mm_id)
        except ImageCorruptError as exc:
            raise ProtocolError(str(exc)) from exc
        size = size_of(ranges)
        if request.mm_id not in self._memory or not 0 < size <= MAX_DATA_SIZE:
            raise ProtocolError(f"{size} bytes of object {request.mm_id} are asked for")
        buffer = bytearray(size)
        runs = [(start, end - start) for start, end in ranges]
        read_exactly(self._memory[request.mm_id], runs, memoryview(buffer))
        return buffer


def feed(
    container: Container,
    intent: Intent,
    *,
    far: Conversation | None = None,
    ask: Ask | None = None,
    retry_for_s: float = 0.0,
    bytes_per_s: float | None = None,
) -> PagesReport:
    """Serve pages until the destination has all; then ours is destroyed.

    Args:
        container: Ours, frozen and given away.
        intent: What stands in its record.
        far: A conversation that is open already; else, and when it breaks, there will be another.
        ask: For passphrases and passwords.
        retry_for_s: How long to look for the destination when the line breaks.
        bytes_per_s: Upper limit of the rate.

    Raises:
        UndecidedError: The destination cannot be reached; ours stays frozen.
        MigrateError: Pages are not wanted any more, though they did not all come: see the reason.
    """
    began = time.monotonic_ns()
    note_ran(container)
    with PageServer(intent.pages, bytes_per_s) as server:
        try:
            end = _serve(server, container, intent, far, ask, retry_for_s)
        except MigrateError:
            raise
        except BaseException:
            log.warning(
                "%s: interrupted while %s takes its memory; it stays frozen until wherry migrate"
                " --resume %s",
                *(container.id, intent.route.destination, container.id),
            )
            raise
        report = server.report
    report.elapsed_ns = time.monotonic_ns() - began
    report.faults = end.faults
    return report


def _serve(
    server: PageServer,
    container: Container,
    intent: Intent,
    far: Conversation | None,
    ask: Ask | None,
    retry_for_s: float,
) -> AllHere:
    end_with = partial(_end, server, container, intent)
    deadline = time.monotonic() + retry_for_s
    while True:
        served = server.report.memory_bytes
        try:
            if far is not None:
                return end_with(far.peer)
            with talk_to(intent.route, ask) as again:
                return end_with(again.peer)
        except LoginError:
            raise
        except TransportError as exc:
            log.info("%s: the line broke: %s", container.id, exc)
            if far is not None or server.report.memory_bytes > served:
                deadline = time.monotonic() + retry_for_s
            far = None
            if time.monotonic() > deadline:
                raise UndecidedError(
                    f"{container.id}: {intent.route.destination} runs it and still needs memory of"
                    f" it, but cannot be reached ({exc}); it stays frozen here, and over there it"
                    " will be killed if nobody comes; say at once"
                    f" wherry migrate --resume {container.id}",
                    reason="pages-pending",
                ) from exc
            time.sleep(RETRY_PAUSE_S)


def _end(server: PageServer, container: Container, intent: Intent, peer: Peer) -> AllHere:
    end = server.serve(peer, intent.token)
    if isinstance(end, Answer):
        raise not_wanted(container, intent, end)
    give_away(container)
    try:
        peer.send(Done(intent.token))
    except TransportError as exc:
        log.info("the other host forgets by itself in time: %s", exc)
    return end


def not_wanted(container: Container, intent: Intent, answer: Answer) -> MigrateError:
    """What holds when the destination neither runs the container with all its memory nor asks."""
    there = intent.route.destination
    if is_forgotten(answer):
        return forgotten(container, intent)
    if answer.phase is Phase.ABORTED:
        return MigrateError(
            f"{container.id}: {there} gave it back; wherry migrate --resume {container.id} lets it"
            " go on here",
            reason="handover-aborted",
        )
    ran = "has" if answer.phase is Phase.RUNNING else "may have"
    return MigrateError(
        f"{container.id}: it {ran} run on {there} since {moment(intent.ran or intent.since)} and is"
        f" dead there ({answer.sentence}); here it is frozen as it was at the handover. If it goes"
        " on from then, what it has done there is lost, and what others have seen of that may"
        f" happen once more: wherry migrate --abort --lose-progress {container.id} does that;"
        f" wherry delete --force {container.id} gives it up",
        reason="pages-lost",
    )


def _fail(peer: Peer, sentence: str) -> None:
    """Tell that there will be no more pages, and wait until the far side has heard it."""
    peer.send(Failed("pages-lost", sentence))
    with contextlib.suppress(MigrateError):
        while True:  # to hang up with requests unread would take the word back
            peer.receive_any(PageRequest, timeout_s=HEARD_TIMEOUT_S)


def _gone() -> MigrateError:
    return MigrateError(
        "the frozen container whose memory is wanted is not here any more", reason="pages-lost"
    )
