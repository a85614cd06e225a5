"""Memory from two places, as one source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from runtime.engine.lazy.ahead import WINDOW, Ahead, Window
from runtime.engine.lazy.joined import JoinedSource
from runtime.engine.lazy.source import FAR, FarSource, Range
from tests.support.wait import wait_until

PAGE = 4096


class _Memory:
    """A `FarSource` over bytes that it makes up of an address and a letter."""

    def __init__(self, letter: bytes, runs: Sequence[Range]) -> None:
        self._letter = letter
        self._runs = runs
        self.told: list[str] = []

    def runs(self, object_id: int) -> Sequence[Range]:
        return self._runs if object_id == 1 else ()

    def read(self, object_id: int, start: int, length: int) -> bytes:
        assert any(low <= start and start + length <= high for low, high in self._runs)
        return self._letter * length

    def kept_fds(self) -> Iterable[int]:
        return (ord(self._letter),)

    def close(self) -> None:
        self.told.append("close")

    def expect(self, runs: Mapping[int, Sequence[Range]]) -> None:
        self.told.append("expect")

    def open(self, directory: Path) -> None:
        self.told.append("open")

    def leave(self) -> None:
        self.told.append("leave")

    def complete(self, faults: int, filled_bytes: int) -> None:
        self.told.append(f"complete {faults} {filled_bytes}")

    def lost(self, sentence: str) -> None:
        self.told.append(f"lost {sentence}")


def test_runs_are_in_the_order_of_addresses_and_say_where_they_are() -> None:
    near = _Memory(b"n", [(0, PAGE), (3 * PAGE, 4 * PAGE)])
    far = _Memory(b"f", [(PAGE, 2 * PAGE), (WINDOW, WINDOW + PAGE)])
    joined = JoinedSource(near, far)
    assert joined.runs(1) == [
        (0, PAGE),
        (PAGE | FAR, 2 * PAGE | FAR),
        (3 * PAGE, 4 * PAGE),
        (WINDOW | FAR, WINDOW + PAGE | FAR),
    ]
    assert joined.runs(2) == []
    for start, end in joined.runs(1):
        letter = b"f" if start & FAR else b"n"
        assert bytes(joined.read(1, start, end - start)) == letter * PAGE
    assert sorted(joined.kept_fds()) == [ord("f"), ord("n")]


def test_who_is_far_hears_of_the_end() -> None:
    near, far = _Memory(b"n", []), _Memory(b"f", [])
    joined = JoinedSource(near, far)
    assert isinstance(joined, FarSource)
    joined.complete(3, 7)
    joined.lost("cut")
    joined.close()
    assert near.told == ["close"] and far.told == ["complete 3 7", "lost cut", "close"]


def test_both_are_read_from_at_once() -> None:
    joined = JoinedSource(_Memory(b"n", [(0, PAGE)]), _Memory(b"f", [(PAGE, 2 * PAGE)]))
    with Ahead(joined) as ahead:
        for start, end in joined.runs(1):
            ahead.want(Window(1, start // WINDOW), [(start, end)], urgent=False)
        assert [window.is_far for window in sorted(ahead.under_way)] == [False, True]
        came: dict[bool, bytes] = {}
        while len(came) < 2:
            content = wait_until(ahead.take)
            assert content is not None
            came[content.window.is_far] = bytes(content.runs[0][1])
        assert came == {False: b"n" * PAGE, True: b"f" * PAGE}
