"""Which pages of a task exist, however many pieces they are in."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from runtime.kernel import pagemap

PAGE = pagemap.PAGE_SIZE


@pytest.mark.parametrize("pieces", [1, 511, 512, 513, 1030])
def test_each_piece_is_named_once(pieces: int) -> None:
    with mmap.mmap(-1, 2 * pieces * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for piece in range(pieces):
            memory[2 * piece * PAGE] = 1
        view = ctypes.c_char.from_buffer(memory)
        start = ctypes.addressof(view)
        del view
        found = list(pagemap.for_each_run(os.getpid(), start, start + len(memory)))
        pages = [start + 2 * piece * PAGE for piece in range(pieces)]
        assert found == [(page, page + PAGE) for page in pages]


def test_more_pieces_than_one_call_may_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagemap, "_REGIONS", 100)
    test_each_piece_is_named_once(1030)
    test_each_piece_is_named_once(100)
