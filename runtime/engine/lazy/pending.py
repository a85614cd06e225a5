"""Which addresses of an address space still wait for their content, and where that is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_SHIFTS = 64


class Part(NamedTuple):
    """Consecutive memory that waits.

    Attributes:
        start, end: Byte addresses.
        source: Address of the content in the page source; another one after mremap(2).
    """

    start: int
    end: int
    source: int


class Pending:
    """Parts that wait, by address; they do not overlap.

    Args:
        parts: Ascending.
    """

    def __init__(self, parts: Iterable[Part] = ()) -> None:
        self._parts = list(parts)
        self._starts = [part.start for part in self._parts]
        # How far parts were moved: few distances, also where there are many parts.
        self._shifts = {part.start - part.source for part in self._parts} | {0}
        self._look_again_at = 2 * len(self._shifts) + _SHIFTS

    def __bool__(self) -> bool:
        return bool(self._parts)

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts)

    def copy(self) -> Pending:
        """The same for a child, which has the same memory at this moment."""
        return Pending(self._parts)

    def within(self, start: int, end: int) -> list[Part]:
        """What waits in ``[start, end)``."""
        first, last = self._touching(start, end)
        return [_cut(part, start, end) for part in self._parts[first:last]]

    def after(self, address: int) -> Part | None:
        """The first part that ends behind *address*, from there on; None if none does."""
        index = max(0, bisect_right(self._starts, address) - 1)
        for part in self._parts[index : index + 2]:
            if part.end > address:
                return _cut(part, address, part.end)
        return None

    def of_source(self, start: int, end: int) -> list[Part]:
        """What waits for the content at ``[start, end)`` of the source."""
        return [
            part
            for shift in self._shifts
            for part in self.within(start + shift, end + shift)
            if part.start - part.source == shift
        ]

    def remove(self, start: int, end: int) -> list[Part]:
        """What is in ``[start, end)`` does not wait any more; returns what did."""
        first, last = self._touching(start, end)
        hit = self._parts[first:last]
        if not hit:
            return []
        left = []
        if hit[0].start < start:
            left.append(_cut(hit[0], hit[0].start, start))
        if hit[-1].end > end:
            left.append(_cut(hit[-1], end, hit[-1].end))
        self._replace(first, last, left)
        return [_cut(part, start, end) for part in hit]

    def move(self, start: int, to: int, length: int) -> None:
        """Memory has another address now, and what was at that is gone."""
        moving = self.remove(start, start + length)
        self.remove(to, to + length)
        first, last = self._touching(to, to + length)
        shift = to - start
        moved = [Part(part.start + shift, part.end + shift, part.source) for part in moving]
        self._replace(first, last, moved)
        self._shifts.update(part.start - part.source for part in moved)
        if len(self._shifts) > self._look_again_at:
            self._shifts = {part.start - part.source for part in self._parts} | {0}
            self._look_again_at = 2 * len(self._shifts) + _SHIFTS

    def _touching(self, start: int, end: int) -> tuple[int, int]:
        """Indexes of the parts that have something in ``[start, end)``."""
        first = bisect_right(self._starts, start)
        if first and self._parts[first - 1].end > start:
            first -= 1
        last = bisect_right(self._starts, end - 1)
        return first, max(first, last)

    def _replace(self, first: int, last: int, parts: list[Part]) -> None:
        self._parts[first:last] = parts
        self._starts[first:last] = [part.start for part in parts]


def _cut(part: Part, start: int, end: int) -> Part:
    start, end = max(start, part.start), min(end, part.end)
    return Part(start, end, part.source + start - part.start)
