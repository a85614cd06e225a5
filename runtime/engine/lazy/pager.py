"""Serving page faults, and filling what nobody has asked for yet.

One loop per container. The kernel says what tasks wait for and what they do to their memory
(`runtime.kernel.missing_pages`); threads read contents (`ahead`); the loop hands them in. It is
the only one that touches the descriptors, and it obeys one rule: *whatever was read from a
descriptor is applied before anything is handed in*. For a task whose change was read goes on with
it, and from then on old contents would be wrong; before it is read, the kernel refuses them.

A forked child has a descriptor of its own and waits for the same pages as its parent did at that
moment. What an address space that has gone waited for is forgotten.
"""

from __future__ import annotations

import errno
import logging
import os
import select
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from runtime.engine.lazy.ahead import WINDOW, Ahead, Content, Window
from runtime.engine.lazy.pending import Part, Pending
from runtime.engine.lazy.source import FAR, PageSource
from runtime.errors import ContainerError
from runtime.kernel import missing_pages
from runtime.kernel.pagemap import PAGE_SIZE

log = logging.getLogger(__name__)

_DEPTH = 4  # windows under way, of those that are near and of those that are far
_STEPS = 64  # parts that are looked at for one to read
_ZEROS = 64 << 10  # bytes of a gap that one fault fills
_AGAIN_S = 0.001  # until what the kernel refused for a moment is tried again
_NEIGHBOURS = 2  # windows behind the one that was missed, and one before it


@dataclass(slots=True)
class Space:
    """An address space that waits for contents.

    Attributes:
        fd: Its userfaultfd; ours.
        object_id: In the page source.
        pending: What it waits for.
        faults: Pages that somebody waits for.
        cursor: Where the search for something to read goes on.
        late: It was forked meanwhile. Most such children soon exec or end, and what they do not ask
            for before the others are complete need not be there twice.
    """

    fd: int
    object_id: int
    pending: Pending
    faults: set[int] = field(default_factory=set)
    cursor: int = 0
    late: bool = False


class Pager:
    """Fills address spaces.

    Args:
        source: Where the contents are.
        spaces: Registered: (userfaultfd, object id).

    Attributes:
        faults: How often somebody had to wait.
        filled: Bytes handed in.
    """

    def __init__(self, source: PageSource, spaces: Iterable[tuple[int, int]]) -> None:
        self._source = source
        self._spaces: dict[int, Space] = {}
        self._poll = select.epoll()
        self._held: list[Content] = []  # read, and refused for a moment
        self._near: deque[Window] = deque()
        self._again = False  # something was refused for a moment
        self.faults = self.filled = 0
        for fd, object_id in spaces:
            runs = source.runs(object_id)
            parts = [Part(low & ~FAR, high & ~FAR, low) for low, high in runs]
            self._add(Space(fd, object_id, Pending(parts)))

    def run(self) -> None:
        """Return when nothing waits any more.

        Raises:
            WherryError, OSError: Contents cannot be had. Nobody goes on with wrong ones
                as long as the descriptors are open.
        """
        with Ahead(self._source) as ahead:
            self._poll.register(ahead.ready_fd, select.EPOLLIN)
            self._close_finished()
            while self._spaces:
                self._read_ahead(ahead)
                ready = self._poll.poll(_AGAIN_S if self._again else None)
                self._again = False
                self._apply_events([fd for fd, _ in ready if fd in self._spaces])
                contents, self._held = self._held, []
                if (content := ahead.take()) is not None:
                    contents.append(content)
                for content in contents:
                    self._hand_in(content)
                for space in self._spaces.values():
                    self._serve(ahead, space)
                self._close_finished()
        log.info("memory is complete: %d bytes, %d faults", self.filled, self.faults)

    # Address spaces

    def _add(self, space: Space) -> None:
        self._spaces[space.fd] = space
        self._poll.register(space.fd, select.EPOLLIN)

    def _close_finished(self) -> None:
        for space in [space for space in self._spaces.values() if not space.pending]:
            # The last close unregisters, and wakes who waits for a page that is only zeros.
            self._poll.unregister(space.fd)
            del self._spaces[space.fd]
            os.close(space.fd)

    def _apply_events(self, fds: Iterable[int]) -> None:
        for fd in fds:
            space = self._spaces[fd]
            for event in missing_pages.read_events(fd):
                if event.kind == missing_pages.PAGEFAULT:
                    space.faults.add(event.address & -PAGE_SIZE)
                    self.faults += 1
                elif event.kind == missing_pages.FORK:
                    self._add(
                        Space(event.address, space.object_id, space.pending.copy(), late=True)
                    )
                elif event.kind == missing_pages.REMAP:
                    space.pending.move(event.address, event.to, event.length)
                else:
                    space.pending.remove(event.address, event.to)

    # Faults

    def _serve(self, ahead: Ahead, space: Space) -> None:
        """Look at everything that somebody waits for; its content may have come, or gone, since."""
        faults, space.faults = space.faults, set()
        for page in faults:
            waiting = space.pending.within(page, page + PAGE_SIZE)
            if not waiting:
                self._hand_in_zeros(space, page)
                continue
            space.faults.add(page)
            window = Window(space.object_id, waiting[0].source // WINDOW)
            if window not in ahead.under_way and not space.late:
                self._look_near(window)
            self._want(ahead, space.pending, window, urgent=True)

    def _look_near(self, window: Window) -> None:
        behind = range(window.number + 1, window.number + 1 + _NEIGHBOURS)
        for number in (*behind, window.number - 1):
            near = Window(window.object_id, number)
            if near not in self._near:
                self._near.append(near)

    def _hand_in_zeros(self, space: Space, page: int) -> None:
        following = space.pending.after(page)
        size = _ZEROS if following is None else min(_ZEROS, following.start - page)
        result = missing_pages.zero(space.fd, page, size)
        if result.error == errno.ENOENT and size > PAGE_SIZE:  # its mapping ends before
            result = missing_pages.zero(space.fd, page, PAGE_SIZE)
        if result.done:
            return
        if result.error == errno.EAGAIN:
            space.faults.add(page)
        elif result.error == errno.ESRCH:
            space.pending = Pending()
        elif result.error in (errno.EEXIST, errno.ENOENT):
            # There by now, or gone: who waits looks again.
            missing_pages.wake(space.fd, page)
        else:
            raise _cannot(result.error, page)

    # Contents

    def _read_ahead(self, ahead: Ahead) -> None:
        while room := self._room(ahead):
            if self._near:
                window = self._near.popleft()
                for space in self._spaces.values():
                    if space.object_id == window.object_id:
                        self._want(ahead, space.pending, window, urgent=False)
            elif not self._read_next(ahead, room):
                return

    def _room(self, ahead: Ahead) -> frozenset[bool]:
        """Whether near (False) and far (True) windows may be asked for."""
        far = sum(window.is_far for window in ahead.under_way)
        near = len(ahead.under_way) - far
        counts = {False: near, True: far}
        return frozenset(lane for lane in counts if counts[lane] + len(self._held) < _DEPTH)

    def _read_next(self, ahead: Ahead, room: frozenset[bool]) -> bool:
        """Ask for the next window in address order; False when there is none for now."""
        for space in self._spaces.values():
            for _ in range(_STEPS):
                part = space.pending.after(space.cursor) or space.pending.after(0)
                if part is None:
                    break
                window = Window(space.object_id, part.source // WINDOW)
                to_end = (window.number + 1) * WINDOW - part.source
                space.cursor = min(part.end, part.start + to_end)
                if window.is_far in room and window not in ahead.under_way:
                    self._want(ahead, space.pending, window, urgent=False)
                    return True
        return False

    @staticmethod
    def _want(ahead: Ahead, pending: Pending, window: Window, *, urgent: bool) -> None:
        low = window.number * WINDOW
        waiting = pending.of_source(low, low + WINDOW)
        if waiting:
            runs = [(part.source, part.source + part.end - part.start) for part in waiting]
            ahead.want(window, runs, urgent=urgent)

    def _hand_in(self, content: Content) -> None:
        """To the address spaces that wait for it: relatives wait for the same."""
        if content.error is not None:
            self._fail(content.window, content.error)
            return
        refused = False
        all_late = all(space.late for space in self._spaces.values())
        for space in self._spaces.values():
            if space.object_id != content.window.object_id:
                continue
            if not space.late or space.faults or all_late:
                refused |= not self._fill(space, content)
        if refused:
            self._held.append(content)
            self._again = True

    def _fail(self, window: Window, error: BaseException) -> None:
        """Raise *error* if anybody still waits for what could not be read."""
        low = window.number * WINDOW
        for space in self._spaces.values():
            waiting = space.pending.of_source(low, low + WINDOW)
            if space.object_id != window.object_id or not waiting:
                continue
            try:
                missing_pages.register(space.fd, waiting[0].start, waiting[0].start + PAGE_SIZE)
            except ProcessLookupError:
                space.pending = Pending()  # exec, or the end of its last task
                continue
            except OSError:
                pass
            raise error

    def _fill(self, space: Space, content: Content) -> bool:
        """Returns whether all of it is done."""
        low = content.window.number * WINDOW
        starts = [start for start, _ in content.runs]
        for part in space.pending.of_source(low, low + WINDOW):
            # What was read for a relative may be less than what this one waits for.
            index = max(0, bisect_right(starts, part.source) - 1)
            source_end = part.source + part.end - part.start
            while index < len(starts) and starts[index] < source_end:
                start, data = content.runs[index]
                first, last = max(start, part.source), min(start + len(data), source_end)
                to = part.start + first - part.source
                if first < last and not self._copy(space, to, data[first - start : last - start]):
                    return False
                index += 1
        return True

    def _copy(self, space: Space, start: int, data: memoryview) -> bool:
        """Hand in consecutive pages; returns False when the kernel refuses for the moment."""
        done, size = 0, len(data)
        while done < len(data):
            at = start + done
            result = missing_pages.copy(space.fd, at, data[done : done + size])
            if result.done:
                self.filled += result.done
                space.pending.remove(at, at + result.done)
                done += result.done
                size = len(data) - done
            elif result.error == errno.EAGAIN:
                return False
            elif result.error == errno.ESRCH:
                space.pending = Pending()
                return True
            elif result.error == errno.ENOENT and size > PAGE_SIZE:
                # Several mappings, or a part of it is gone.
                size = size // 2 & -PAGE_SIZE or PAGE_SIZE
            elif result.error in (errno.EEXIST, errno.ENOENT):
                # There already, or nothing to be filled any more.
                space.pending.remove(at, at + PAGE_SIZE)
                missing_pages.wake(space.fd, at)
                done += PAGE_SIZE
                size = len(data) - done
            else:
                raise _cannot(result.error, at)
        return True


def _cannot(error: int, address: int) -> ContainerError:
    return ContainerError(f"page {address:#x}: {os.strerror(error)}", reason="memory-lost")
