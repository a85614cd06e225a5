"""Post-copy, the destination's side: the pager asks the source for memory.

The pager lives as long as memory is missing, connections do not: each is brought by a
``wherry receive``, which gives its two descriptors to the pager over a socket in the container's
directory and stays until that has closed it. A newer connection replaces an older one, which may
be dead without our having heard of it. What was asked for and not answered is asked for again.
When nobody comes for a while the pager gives up, and its guard kills the container (see
`runtime.engine.lazy.process`): it must not go on without its memory.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from formats.compression import decompress
from formats.errors import ImageCorruptError
from formats.staged import pack_ranges
from migrate.errors import MigrateError, ProtocolError, TransportError
from migrate.ledger import note_pages
from migrate.messages import AllHere, OfferContainer, PageContent, PageRequest, PageState
from migrate.protocol import Peer
from migrate.transport import Buffer, DescriptorChannel
from runtime.engine.lazy.source import Range
from runtime.errors import ContainerError
from runtime.line_socket import LineSocket, connect, listen
from runtime.metadata import update_metadata

log = logging.getLogger(__name__)

PAGES = "pages"
"""In `Metadata.extra` of a container that came by post-copy: the token of the handover."""
SOCKET_NAME = "pages.sock"
WINDOW = 1 << 20  # bytes of addresses that are asked for at once, as the pager does
ANSWER_TIMEOUT_S = 30.0  # a source that takes longer for a window is taken for gone
MAX_PATIENCE_S = 86400
_CACHED = 16  # windows: relatives ask for the same again
_Window = tuple[int, int]  # address space, number


def line_for(offer: OfferContainer, root: Path) -> PageLine | None:
    """What asks for memory of an offered container; None when none of it comes later.

    Raises:
        ProtocolError: The offer is malformed.
    """
    if not offer.pages_within_s:
        return None
    if not 0 < offer.pages_within_s <= MAX_PATIENCE_S:
        raise ProtocolError(f"nobody waits for {offer.pages_within_s} s")
    return PageLine(root, offer.token, offer.pages_within_s)


class PageLine:
    """Memory that is still at the source: a `runtime.engine.lazy.source.FarSource`.

    What becomes of it is written into the ledger, which outlives the container.

    Args:
        root: State root of this host's containers.
        token: Of the handover.
        patience_s: How long nobody may be there to ask.
    """

    def __init__(self, root: Path, token: str, patience_s: float) -> None:
        self._root = root
        self._token = token
        self._patience_s = patience_s
        self._runs: dict[int, list[Range]] = {}
        self._listener: socket.socket | None = None
        self._sending = threading.Lock()  # guards the connection, and what is expected of it
        self._receiving = threading.Lock()
        self._came: OrderedDict[_Window, tuple[list[Range], memoryview]] = OrderedDict()
        self._expected: deque[_Window] = deque()
        self._peer: Peer | None = None
        self._line: LineSocket | None = None
        self._fds: list[int] = []
        self._number = 0  # of the connection

    # While the container is built

    def expect(self, runs: Mapping[int, Sequence[Range]]) -> None:
        """See FarSource."""
        self._runs = {mm_id: list(parts) for mm_id, parts in runs.items()}

    def open(self, directory: Path) -> None:
        """See FarSource."""
        if not self._runs:
            note_pages(self._root, self._token, PageState.COMPLETE)
            return
        self._listener = listen(directory / SOCKET_NAME)
        with update_metadata(directory) as metadata:
            metadata.extra[PAGES] = self._token

    def leave(self) -> None:
        """See FarSource."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def kept_fds(self) -> Iterable[int]:
        """See PageSource."""
        return () if self._listener is None else (self._listener.fileno(),)

    # In the pager

    def runs(self, object_id: int) -> Sequence[Range]:
        """See PageSource."""
        return self._runs.get(object_id, ())

    def read(self, object_id: int, start: int, length: int) -> Buffer:
        """See PageSource."""
        ranges, data = self._window((object_id, start // WINDOW))
        at = 0
        for low, high in ranges:
            if low <= start and start + length <= high:
                return data[at + start - low : at + start - low + length]
            at += high - low
        raise ProtocolError(f"{start:#x} and {length} bytes are not in one piece")

    def complete(self, faults: int, filled_bytes: int) -> None:
        """See FarSource. Written down first: if the word is lost, the source will ask."""
        note_pages(self._root, self._token, PageState.COMPLETE)
        if self._peer is None:
            return
        try:
            self._peer.send(AllHere(faults, filled_bytes))
        except TransportError as exc:
            log.info("the source cannot be told that all is here: %s", exc)

    def lost(self, sentence: str) -> None:
        """See FarSource."""
        note_pages(self._root, self._token, PageState.LOST, sentence)

    def close(self) -> None:
        """See PageSource."""
        self._hang_up()

    def _window(self, window: _Window) -> tuple[list[Range], memoryview]:
        while True:
            with self._sending:
                found = self._came.get(window)
                if found is not None:
                    return found
                number, peer = self._ask(window)
            self._await(window, number, peer)

    def _ask(self, window: _Window) -> tuple[int, Peer]:
        if self._peer is None:
            self._accept()
        assert self._peer is not None
        if window not in self._expected:
            (packed,) = pack_ranges(self._within(window))
            try:
                self._peer.send(PageRequest(window[0], packed))
            except TransportError as exc:
                # Who receives will find it out, and is the one that may close descriptors.
                log.info("a request cannot be sent: %s", exc)
            self._expected.append(window)
        return self._number, self._peer

    def _await(self, window: _Window, number: int, peer: Peer) -> None:
        """Receive until a window has come, or the connection is lost."""
        with self._receiving:
            while True:
                with self._sending:
                    if window in self._came or self._number != number:
                        return
                    next_window = self._expected[0]
                try:
                    data = self._receive(peer, sum(e - s for s, e in self._within(next_window)))
                except TransportError as exc:
                    with self._sending:
                        self._lose(exc)
                    return
                except MigrateError as exc:
                    raise ContainerError(
                        f"the host that it came from does not give it: {exc}", reason="pages-lost"
                    ) from exc
                with self._sending:
                    self._expected.popleft()
                    self._came[next_window] = (self._within(next_window), data)
                    while len(self._came) > _CACHED:
                        self._came.popitem(last=False)

    @staticmethod
    def _receive(peer: Peer, size: int) -> memoryview:
        content = peer.receive(PageContent)
        if content.plain_bytes != size:
            raise ProtocolError(f"{content.plain_bytes} bytes came where {size} were asked for")
        if not 0 < content.stored_bytes <= size:
            raise ProtocolError(f"{content.stored_bytes} bytes are to be {size}")
        body = peer.receive_body(content.stored_bytes)
        if content.stored_bytes < size:
            try:
                body = bytearray(decompress(body, size))
            except ImageCorruptError as exc:
                raise ProtocolError(f"pages cannot be read: {exc}") from exc
        return memoryview(body)

    def _within(self, window: _Window) -> list[Range]:
        """What of a window is at the source."""
        mm_id, number = window
        low, high = number * WINDOW, (number + 1) * WINDOW
        runs = self._runs[mm_id]
        index = max(0, bisect_left(runs, (low, 0)) - 1)
        found = []
        while index < len(runs) and runs[index][0] < high:
            start, end = max(runs[index][0], low), min(runs[index][1], high)
            if start < end:
                found.append((start, end))
            index += 1
        return found

    # Connections

    def _accept(self) -> None:
        assert self._listener is not None
        deadline = time.monotonic() + self._patience_s
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while self._peer is None:
            left = deadline - time.monotonic()
            if not poll.poll(max(0, int(left * 1000))):
                raise ContainerError(
                    f"the host that it came from has not been heard of for {self._patience_s:g} s",
                    reason="pages-lost",
                )
            sock, _ = self._listener.accept()
            sock.settimeout(5)
            line = LineSocket(sock)
            try:
                line.receive()
                fds = line.take_fds()
            except (OSError, ValueError) as exc:
                log.info("a connection has come to nothing: %s", exc)
                sock.close()
                continue
            if len(fds) != 2:
                sock.close()
                continue
            self._line, self._fds = line, fds
            channel = _Watched(fds[0], fds[1], self._listener.fileno())
            self._peer = Peer(channel, timeout_s=ANSWER_TIMEOUT_S)

    def _lose(self, exc: TransportError) -> None:
        log.info("no pages: %s", exc)
        self._hang_up()
        self._number += 1
        self._expected.clear()

    def _hang_up(self) -> None:
        self._peer = None
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        if self._line is not None:
            self._line.close()
            self._line = None


class _Watched(DescriptorChannel):
    """A channel whose reader hears when there is another one."""

    def __init__(self, reader: int, writer: int, listener: int) -> None:
        super().__init__(reader, writer)
        self._listener = listener

    def read(self, size: int, timeout_s: float | None) -> bytes:
        """See `Channel`."""
        poll = select.poll()
        poll.register(self.fds()[0], select.POLLIN)
        poll.register(self._listener, select.POLLIN)
        ready = poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000)))
        if any(fd == self._listener for fd, _ in ready):
            raise TransportError("another connection has come")
        return super().read(size, 0.0 if not ready else timeout_s)


def hand_over(directory: Path, fds: Sequence[int]) -> bool:
    """Give the pager of a container a connection, and wait until it needs it no more.

    Args:
        directory: The container's.
        fds: To read from, to write to. They may still be ours, but not be used.

    Returns:
        False when there is no pager.
    """
    try:
        line = connect(directory / SOCKET_NAME)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    with line:
        try:
            line.send({}, fds)
            while line.receive() is not None:
                pass
        except OSError as exc:
            log.info("the pager is gone: %s", exc)
    return True
