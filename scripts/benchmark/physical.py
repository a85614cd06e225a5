"""What the machine itself can do with the same bytes: the yardstick of the benchmark.

A dump is at best: read the memory with process_vm_readv, compress it with zstd level 1, write it
and sync it. A restore is at best: read the file, decompress it, copy it into a fresh mapping of
another process. Both yardsticks use as many threads as wherry does, in pieces of one MiB, and do
nothing else: no digests, no index, no records.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import local

import zstandard

from runtime.kernel import process_vm

PIECE = 1 << 20
THREADS = 2
_IN_FLIGHT = 8


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Seconds of the whole, and of each stage alone on one thread."""

    total_s: float
    read_s: float
    compress_s: float
    write_s: float
    plain_bytes: int
    packed_bytes: int


def private_ranges(pid: int, least: int) -> list[tuple[int, int]]:
    """Anonymous private mappings of at least *least* bytes: (start, size)."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split()
        start, end = (int(word, 16) for word in fields[0].split("-"))
        if len(fields) == 5 and fields[1] == "rw-p" and end - start >= least:
            found.append((start, end - start))
    return found


def _pieces(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, size in ranges:
        for offset in range(0, size, PIECE):
            yield start + offset, min(PIECE, size - offset)


def dump(pid: int, ranges: list[tuple[int, int]], target: Path) -> Pipeline:
    """Read, compress and write *ranges* of a process into *target*.

    The whole is measured with all stages overlapping; then each stage alone.
    """
    thread = local()

    def pack(piece: tuple[int, int]) -> bytes:
        if not hasattr(thread, "buffer"):
            thread.buffer = bytearray(PIECE)
            thread.compressor = zstandard.ZstdCompressor(level=1)
        view = memoryview(thread.buffer)[: piece[1]]
        process_vm.read_runs(pid, [piece], view)
        return bytes(thread.compressor.compress(view))

    start = time.perf_counter()
    packed_bytes = 0
    with target.open("wb", buffering=0) as file, ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[bytes]] = deque()
        for piece in _pieces(ranges):
            waiting.append(pool.submit(pack, piece))
            while len(waiting) > _IN_FLIGHT:
                packed_bytes += _write_piece(file.fileno(), waiting.popleft().result())
        while waiting:
            packed_bytes += _write_piece(file.fileno(), waiting.popleft().result())
        os.fsync(file.fileno())
    total_s = time.perf_counter() - start
    stages = _stages(pid, ranges, target)
    return Pipeline(total_s, *stages, sum(size for _, size in ranges), packed_bytes)


def read(pid: int, ranges: list[tuple[int, int]]) -> float:
    """Seconds of one plain read of *ranges* of a process."""
    buffer = memoryview(bytearray(PIECE))
    start = time.perf_counter()
    for piece in _pieces(ranges):
        process_vm.read_runs(pid, [piece], buffer[: piece[1]])
    return time.perf_counter() - start


def _write_piece(fd: int, packed: bytes) -> int:
    os.write(fd, len(packed).to_bytes(4, "little") + packed)
    return len(packed) + 4


def _stages(pid: int, ranges: list[tuple[int, int]], target: Path) -> tuple[float, float, float]:
    buffer = memoryview(bytearray(PIECE))
    compressor = zstandard.ZstdCompressor(level=1)
    read_s = compress_s = 0.0
    for piece in _pieces(ranges):
        start = time.perf_counter()
        process_vm.read_runs(pid, [piece], buffer[: piece[1]])
        middle = time.perf_counter()
        compressor.compress(buffer[: piece[1]])
        read_s += middle - start
        compress_s += time.perf_counter() - middle
    start = time.perf_counter()
    with target.open("rb") as source, target.with_suffix(".copy").open("wb", buffering=0) as copy:
        while part := source.read(PIECE):
            copy.write(part)
        os.fsync(copy.fileno())
    write_s = time.perf_counter() - start
    target.with_suffix(".copy").unlink()
    return read_s, compress_s, write_s


@contextmanager
def _empty_process(size: int) -> Iterator[tuple[int, int]]:
    """Another process with a fresh mapping of *size* bytes: (pid, address)."""
    program = (
        "import ctypes, mmap, sys\n"
        f"memory = mmap.mmap(-1, {size}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)\n"
        "sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        yield child.pid, int(child.stdout.readline())
    finally:
        child.kill()
        child.communicate()


def restore(source: Path, size: int) -> float:
    """Seconds to decompress what ``dump`` wrote and copy it into a fresh process."""
    thread = local()
    with _empty_process(size) as (pid, address), source.open("rb") as file:

        def unpack(packed: bytes, offset: int) -> None:
            if not hasattr(thread, "decompressor"):
                thread.decompressor = zstandard.ZstdDecompressor()
            plain = bytearray(thread.decompressor.decompress(packed, max_output_size=PIECE))
            process_vm.write_runs(pid, [(address + offset, len(plain))], memoryview(plain))

        start = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            waiting: deque[Future[None]] = deque()
            offset = 0
            while header := file.read(4):
                packed = file.read(int.from_bytes(header, "little"))
                waiting.append(pool.submit(unpack, packed, offset))
                offset += PIECE
                while len(waiting) > _IN_FLIGHT:
                    waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
        return time.perf_counter() - start
