"""Chunk metas: where bytes belong, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from formats import wire
from formats.chunks import ChunkMeta, pack_meta, runs_problem, unpack_meta
from formats.errors import ImageCorruptError
from formats.limits import CHUNK_SIZE, MAX_RUNS
from formats.pipeline import cut_runs

NAME = b"\x05" * 32


@pytest.mark.parametrize(
    ("offset", "runs"),
    [
        (0, ((0, CHUNK_SIZE),)),
        (0x7FFF_FFF0_0000, ((0x7FFF_FFF0_1000, 4096), (0x7FFF_FFF0_3000, 8192))),
        (1, ((1, 1), (2, 1), (CHUNK_SIZE, 1))),
        (0, tuple((number * 256, 8) for number in range(MAX_RUNS))),
    ],
)
def test_round_trip(offset: int, runs: tuple[tuple[int, int], ...]) -> None:
    meta = ChunkMeta(9, offset, runs, NAME)
    size = sum(length for _, length in runs)
    assert unpack_meta(pack_meta(meta), size) == meta
    with pytest.raises(ImageCorruptError, match=f"runs of {size} bytes for a body of {size + 1}"):
        unpack_meta(pack_meta(meta), size + 1)


def test_its_bytes_are_those_of_the_contract() -> None:
    meta = ChunkMeta(9, 4096, ((4096, 16), (8192, 32)), NAME)
    assert pack_meta(meta) == wire.pack([9, 4096, [0, 16, 4096, 32], NAME])


@pytest.mark.parametrize(
    ("offset", "runs"),
    [
        (0, []),
        (0, [(number * 2, 1) for number in range(MAX_RUNS + 1)]),
        (0, [(0, 0)]),
        (0, [(0, -1)]),
        (0, [(8, 8), (0, 8)]),
        (0, [(0, 9), (8, 8)]),
        (4096, [(0, 8)]),
        (0, [(0, CHUNK_SIZE + 1)]),
        (0, [(CHUNK_SIZE, 1)]),
    ],
)
def test_runs_that_are_wrong(offset: int, runs: list[tuple[int, int]]) -> None:
    assert runs_problem(offset, runs)
    with pytest.raises(ImageCorruptError):
        unpack_meta(pack_meta(ChunkMeta(1, offset, tuple(runs), NAME)), sum(r[1] for r in runs))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        [1, 0, [0, 8]],
        [1, 0, [0, 8], NAME, 1],
        [-1, 0, [0, 8], NAME],
        [1, -1, [1, 8], NAME],
        [True, 0, [0, 8], NAME],
        [1, 0, [0, True], NAME],
        [1, 0, [0], NAME],
        [1, 0, [0, "8"], NAME],
        [1, 0, [[0, 8]], NAME],
        [1, 0, [0, 8], NAME[:-1]],
        [1, 0, [0, 8], "name" * 8],
        [1, 0, "08", NAME],
    ],
    ids=repr,
)
def test_malformed(value: Any) -> None:
    with pytest.raises(ImageCorruptError):
        unpack_meta(wire.pack(value), 8)


def test_a_chunk_is_cut_at_addresses() -> None:
    runs = ((0x100000, 0x1800), (0x102000, 0x3000), (0x107FFF, 2), (0x109000, 0x1000))
    pieces = [(one.offset, one.runs) for one in cut_runs(0x100000, runs, 0x2000)]
    assert pieces == [
        (0x100000, [(0x100000, 0x1800)]),
        (0x102000, [(0x102000, 0x2000)]),
        (0x104000, [(0x104000, 0x1000)]),
        (0x106000, [(0x107FFF, 1)]),
        (0x108000, [(0x108000, 1), (0x109000, 0x1000)]),
    ]
    for size in (0x1000, 0x8000, 0x100000):
        cut = cut_runs(0x100000, runs, size)
        assert sum(one.plain_size for one in cut) == sum(length for _, length in runs)
