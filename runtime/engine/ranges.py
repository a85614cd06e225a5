"""Arithmetic of address ranges: half-open, ascending, in bytes."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

Range = tuple[int, int]  # start, end
PageRun = tuple[int, int, bool]  # start, end, readable


def intersection(runs: Iterable[PageRun], parts: Sequence[Range]) -> Iterator[PageRun]:
    """The parts of runs that lie in *parts*; both ascending."""
    index = 0
    for start, end, readable in runs:
        while index < len(parts) and parts[index][1] <= start:
            index += 1
        at = index
        while at < len(parts) and parts[at][0] < end:
            yield max(start, parts[at][0]), min(end, parts[at][1]), readable
            at += 1


def without(runs: Iterable[PageRun], holes: Sequence[Range]) -> Iterator[PageRun]:
    """Runs without what lies in *holes*; both ascending."""
    index = 0
    for first, end, readable in runs:
        start = first
        while index < len(holes) and holes[index][1] <= start:
            index += 1
        at = index
        while at < len(holes) and holes[at][0] < end:
            if start < holes[at][0]:
                yield start, holes[at][0], readable
            start = max(start, holes[at][1])
            at += 1
        if start < end:
            yield start, end, readable


def gaps(ranges: Iterable[Range], taken: Sequence[Range]) -> Iterator[Range]:
    """What is left of *ranges* without *taken*; both ascending and disjoint."""
    for start, end, _ in without(((low, high, True) for low, high in ranges), taken):
        yield start, end


def union(a: Sequence[Range], b: Sequence[Range]) -> list[Range]:
    """What lies in either; neighbours become one."""
    found: list[Range] = []
    first = last = -1
    for start, end in heapq.merge(a, b):
        if start <= last:
            last = max(last, end)
            continue
        if last > first:
            found.append((first, last))
        first, last = start, end
    if last > first:
        found.append((first, last))
    return found


def common(a: Iterable[Range], b: Sequence[Range]) -> list[Range]:
    """What lies in both."""
    return [(start, end) for start, end, _ in intersection(((s, e, True) for s, e in a), b)]


def size_of(ranges: Iterable[Range]) -> int:
    """Bytes in all."""
    return sum(end - start for start, end in ranges)
