"""Memory of which a part is here already and the rest still far: one page source of the two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from runtime.engine.lazy.source import FAR, Buffer, FarSource, PageSource, Range


class JoinedSource:
    """A `FarSource` of what is near, and of what is not.

    Args:
        near: Has some content.
        far: Has other content; together no address twice.
    """

    def __init__(self, near: PageSource, far: FarSource) -> None:
        self._near = near
        self._far = far

    def runs(self, object_id: int) -> Sequence[Range]:
        """See PageSource; in the order of addresses."""
        there = [(start | FAR, end | FAR) for start, end in self._far.runs(object_id)]
        return sorted([*self._near.runs(object_id), *there], key=lambda run: run[0] & ~FAR)

    def read(self, object_id: int, start: int, length: int) -> Buffer:
        """See PageSource."""
        if start & FAR:
            return self._far.read(object_id, start & ~FAR, length)
        return self._near.read(object_id, start, length)

    def kept_fds(self) -> Iterable[int]:
        """See PageSource."""
        return [*self._near.kept_fds(), *self._far.kept_fds()]

    def close(self) -> None:
        """See PageSource."""
        self._near.close()
        self._far.close()

    def expect(self, runs: Mapping[int, Sequence[Range]]) -> None:
        """See FarSource."""
        self._far.expect(runs)

    def open(self, directory: Path) -> None:
        """See FarSource."""
        self._far.open(directory)

    def leave(self) -> None:
        """See FarSource."""
        self._far.leave()

    def complete(self, faults: int, filled_bytes: int) -> None:
        """See FarSource."""
        self._far.complete(faults, filled_bytes)

    def lost(self, sentence: str) -> None:
        """See FarSource."""
        self._far.lost(sentence)
