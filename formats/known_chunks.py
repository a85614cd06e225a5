"""Which chunks the memory of a running program had when it was last looked at.

A snapshot of a program that goes on need not read what has not changed since it was read last: its
chunks are there already, and their names are known. They are kept here, by *number* (what somebody
tracks the writes of, an address space) and window of `CHUNK_SIZE` bytes: the runs of it that hold
content, and the names of the pieces that these were cut into (`formats.pipeline.cut_runs`), one
after the other. That is 4 KiB for each MiB, little enough to be kept until the next snapshot.

As bytes (`pack`), little-endian: for each window 8 bytes of number, 8 of its offset, 4 of the size
of its pieces, 4 of its count of runs, 4 of its count of names; then the runs as pairs of 8 bytes
(start, length) and the names of 32 bytes each. It stays on one host, so there is no version in it.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from formats.chunks import DIGEST_SIZE
from formats.limits import CHUNK_SIZE
from formats.pipeline import Piece, cut_runs

Range = tuple[int, int]  # start, end: byte addresses

SMALLEST = 8 << 10  # bytes; formats.external.PIECE_SIZE

_WINDOW = struct.Struct("<QQIII")
_RUN = struct.Struct("<QQ")


class Window(NamedTuple):
    """What is known of one window.

    Attributes:
        piece_size: Bytes of address space that a piece covers.
        runs: (start, length) byte ranges that hold content, ascending; those that touch are one.
        names: Of the pieces, one after the other.
    """

    piece_size: int
    runs: tuple[tuple[int, int], ...]
    names: bytes

    def pieces(self, offset: int) -> list[Piece]:
        """The pieces, with their names, known to be stored."""
        found = cut_runs(offset, self.runs, self.piece_size)
        for index, piece in enumerate(found):
            piece.chunk_id = self.names[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]
            piece.known = True
        return found


class KnownChunks:
    """Names of chunks by number and place.

    `put` is cheap and may be called while the program stands still; what it brought counts once
    `settle` was called.
    """

    def __init__(self) -> None:
        self._windows: dict[int, dict[int, Window]] = {}
        self._fresh: list[tuple[int, int, int, list[Piece]]] = []

    def __len__(self) -> int:
        return sum(map(len, self._windows.values()))

    def numbers(self) -> list[int]:
        """Of what there is something known."""
        return list(self._windows)

    def piece_size(self, number: int, offset: int) -> int:
        """The size of a window's pieces, which stays; 0 for one that is not known."""
        known = self._windows.get(number, {}).get(offset)
        return 0 if known is None else known.piece_size

    @property
    def greatest_piece(self) -> int:
        """The size of the largest pieces that there are, at least `SMALLEST`."""
        sizes = {w.piece_size for windows in self._windows.values() for w in windows.values()}
        return max(sizes, default=SMALLEST)

    def put(self, number: int, offset: int, piece_size: int, pieces: list[Piece]) -> None:
        """Pieces of a window that were just read, whole; they replace those in their places."""
        self._fresh.append((number, offset, piece_size, pieces))

    def settle(self) -> None:
        """Take in what `put` has brought."""
        fresh, self._fresh = self._fresh, []
        for number, offset, piece_size, pieces in fresh:
            windows = self._windows.setdefault(number, {})
            known = windows.get(offset)
            by_place = {} if known is None else {one.offset: one for one in known.pieces(offset)}
            by_place.update((piece.offset, piece) for piece in pieces)
            whole = [by_place[place] for place in sorted(by_place)]
            windows[offset] = _window(piece_size, whole)

    def runs(self, number: int) -> list[Range]:
        """What has content of which the names are known, ascending."""
        windows = self._windows.get(number, {})
        found: list[Range] = []
        for offset in sorted(windows):
            for start, length in windows[offset].runs:
                if found and found[-1][1] == start:
                    found[-1] = (found[-1][0], start + length)
                else:
                    found.append((start, start + length))
        return found

    def drop(self, number: int, ranges: Iterable[Range]) -> None:
        """Forget every piece that one of *ranges*, ascending, touches."""
        windows = self._windows.get(number, {})
        touched: dict[int, list[Range]] = {}
        for first, end in ranges:
            for offset in range(first - first % CHUNK_SIZE, end, CHUNK_SIZE):
                touched.setdefault(offset, []).append((first, end))
        for offset, parts in touched.items():
            known = windows.get(offset)
            if known is None:
                continue
            pieces = _untouched(known.pieces(offset), parts, known.piece_size)
            if pieces:
                windows[offset] = _window(known.piece_size, pieces)
            else:
                del windows[offset]

    def forget(self, number: int) -> None:
        """Forget all of one number."""
        self._windows.pop(number, None)

    def require(self, has: Callable[[bytes], bool]) -> None:
        """Forget the windows of which a chunk is not stored any more."""
        for windows in self._windows.values():
            for offset, window in list(windows.items()):
                names = window.names
                if not all(
                    has(names[at : at + DIGEST_SIZE]) for at in range(0, len(names), DIGEST_SIZE)
                ):
                    del windows[offset]

    def pieces(self, number: int) -> Iterator[Piece]:
        """All pieces of one number, by address."""
        windows = self._windows.get(number, {})
        for offset in sorted(windows):
            yield from windows[offset].pieces(offset)

    def pack(self) -> bytes:
        """All of it as bytes."""
        parts: list[bytes] = []
        for number, windows in self._windows.items():
            for offset, (piece_size, runs, names) in windows.items():
                count = len(names) // DIGEST_SIZE
                parts.append(_WINDOW.pack(number, offset, piece_size, len(runs), count))
                parts.append(b"".join(itertools.starmap(_RUN.pack, runs)))
                parts.append(names)
        return b"".join(parts)

    @staticmethod
    def unpack(raw: bytes | memoryview) -> KnownChunks:
        """What `pack` has made.

        Raises:
            ValueError: It ends too early.
        """
        chunks = KnownChunks()
        view = memoryview(raw)
        at = 0
        while at < len(view):
            if at + _WINDOW.size > len(view):
                raise ValueError("known chunks end inside a window")
            number, offset, piece_size, run_count, count = _WINDOW.unpack_from(view, at)
            at += _WINDOW.size
            middle = at + run_count * _RUN.size
            end = middle + count * DIGEST_SIZE
            if end > len(view):
                raise ValueError("known chunks end inside a window")
            runs = tuple(_RUN.iter_unpack(view[at:middle]))
            window = Window(piece_size, runs, bytes(view[middle:end]))
            chunks._windows.setdefault(number, {})[offset] = window
            at = end
        return chunks


def rounded(ranges: Iterable[Range], size: int) -> list[Range]:
    """Ranges, ascending, made larger until they begin and end at multiples of *size*."""
    found: list[Range] = []
    for first, last in ranges:
        start, end = first - first % size, last + -last % size
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _window(piece_size: int, pieces: Sequence[Piece]) -> Window:
    runs: list[tuple[int, int]] = []
    for piece in pieces:
        for start, length in piece.runs:
            if runs and sum(runs[-1]) == start:
                runs[-1] = (runs[-1][0], runs[-1][1] + length)
            else:
                runs.append((start, length))
    return Window(piece_size, tuple(runs), b"".join([piece.chunk_id for piece in pieces]))


def _untouched(pieces: Sequence[Piece], parts: Sequence[Range], size: int) -> list[Piece]:
    kept = []
    index = 0
    for piece in pieces:
        while index < len(parts) and parts[index][1] <= piece.offset:
            index += 1
        if index == len(parts) or parts[index][0] >= piece.offset + size:
            kept.append(piece)
    return kept
