"""Threads that read from a page source: what somebody waits for first, then what will be wanted."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from runtime.engine.lazy.source import FAR, Buffer, PageSource, Range

WINDOW = 1 << 20  # bytes read at once: what a chunk covers
_FIRST_FAR = FAR // WINDOW
_THREADS = 2  # for what is near, and as many for what is far


class Window(NamedTuple):
    """A stretch of a source that is read at once: a multiple of `WINDOW` and what follows."""

    object_id: int
    number: int

    @property
    def is_far(self) -> bool:
        """Whether its content takes longer to come than that of others."""
        return self.number >= _FIRST_FAR


class Content(NamedTuple):
    """What was read of a window: its runs with their source addresses, or why there is none."""

    window: Window
    runs: Sequence[tuple[int, memoryview]]
    error: BaseException | None


class Ahead:
    """A few reads under way; a context manager.

    Args:
        source: Where from.

    Attributes:
        ready_fd: Readable when `take` has something.
        under_way: Windows that were asked for and not taken yet.
    """

    def __init__(self, source: PageSource) -> None:
        self._source = source
        self._wanted: dict[bool, deque[tuple[Window, Sequence[Range]]]] = {}
        self._done: deque[Content] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._threads: list[threading.Thread] = []
        self.ready_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.under_way: set[Window] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def want(self, window: Window, runs: Sequence[Range], *, urgent: bool) -> None:
        """Ask for a window, unless it is under way; an urgent one goes ahead of the others.

        Args:
            window: Which.
            runs: The parts of it to read; source addresses.
            urgent: Somebody waits for it.
        """
        with self._changed:
            if window in self.under_way:
                if urgent:
                    self._hurry(window)
                return
            self.under_way.add(window)
            wanted = self._wanted.get(window.is_far)
            if wanted is None:
                wanted = self._wanted[window.is_far] = deque()
                self._start_threads(window.is_far)
            if urgent:
                wanted.appendleft((window, runs))
            else:
                wanted.append((window, runs))
            self._changed.notify_all()

    def take(self) -> Content | None:
        """Something that was read, or None. Its window may be asked for again."""
        with self._changed:
            if not self._done:
                return None
            content = self._done.popleft()
            self.under_way.discard(content.window)
            if not self._done:
                os.eventfd_read(self.ready_fd)
            return content

    def _hurry(self, window: Window) -> None:
        wanted = self._wanted[window.is_far]
        for item in wanted:
            if item[0] == window:
                wanted.remove(item)
                wanted.appendleft(item)
                return

    def _start_threads(self, is_far: bool) -> None:
        for number in range(_THREADS):
            name = f"wherry-{'far' if is_far else 'ahead'}-{number}"
            # Daemons: one that hangs in a read must not keep the process.
            thread = threading.Thread(target=self._run, args=(is_far,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self, is_far: bool) -> None:
        wanted = self._wanted[is_far]
        while True:
            with self._changed:
                while not wanted and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                window, runs = wanted.popleft()
            content = self._read(window, runs)
            with self._changed:
                self._done.append(content)
                if len(self._done) == 1:
                    os.eventfd_write(self.ready_fd, 1)

    def _read(self, window: Window, runs: Sequence[Range]) -> Content:
        try:
            read = [
                (start, _writable(self._source.read(window.object_id, start, end - start)))
                for start, end in runs
            ]
        except BaseException as exc:  # raised again by whoever takes it
            return Content(window, (), exc)
        return Content(window, read, None)


def _writable(data: Buffer) -> memoryview:
    """What a system call can be given the address of."""
    view = memoryview(data)
    return memoryview(bytearray(view)) if view.readonly else view
