"""The measured workload: ``holder.py MEBIBYTES CONTROL_DIR``.

It fills that much memory, half of which compresses, writes ``ready`` with the memory's address, and
then counts without pause in the first word of ``beat``, a mapped file: whoever looks at that file
sees the moment at which the program goes on.
"""

from __future__ import annotations

import mmap
import os
import random
import sys
from pathlib import Path

PIECE = 64 << 10


def fill(memory: mmap.mmap) -> None:
    """Random bytes and text, turn by turn, no piece twice."""
    dice = random.Random(7)
    for number, offset in enumerate(range(0, len(memory), PIECE)):
        if number % 2:
            memory[offset : offset + PIECE] = os.urandom(PIECE)
        else:
            line = b"%012d the quick brown fox %s\n" % (number, dice.randbytes(8).hex().encode())
            memory[offset : offset + PIECE] = (line * (PIECE // len(line) + 1))[:PIECE]


def main() -> None:
    size, control = int(sys.argv[1]) << 20, Path(sys.argv[2])
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    fill(memory)
    beat_file = (control / "beat").open("w+b")
    beat_file.truncate(mmap.PAGESIZE)
    beat = mmap.mmap(beat_file.fileno(), mmap.PAGESIZE)
    (control / "ready").write_text(f"{size}\n")
    counter = 0
    while True:
        counter += 1
        beat[:8] = counter.to_bytes(8, "little")


main()
