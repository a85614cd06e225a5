"""A workload that writes to its memory at a rate: ``dirtier.py MEBIBYTES MEBIBYTES_PER_S FILE``.

Its memory is random bytes, which nothing can compress. It writes to pages at random and notes down
in FILE how many it has written and the longest time that it stood still, in seconds.
"""

from __future__ import annotations

import mmap
import os
import random
import sys
import time
from pathlib import Path

PAGE = mmap.PAGESIZE
BEAT_S = 0.005


def main() -> None:
    """Fill the memory, then write to it for ever."""
    size, rate, file = int(sys.argv[1]) << 20, float(sys.argv[2]), Path(sys.argv[3])
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, size, 1 << 20):
        memory[offset : offset + (1 << 20)] = os.urandom(1 << 20)
    dice, pages = random.Random(5), size // PAGE
    written, longest, noted = 0, 0.0, 0.0
    owed = 0.0
    last = time.monotonic()
    while True:
        time.sleep(BEAT_S)
        now = time.monotonic()
        longest = max(longest, now - last)
        owed += min(now - last, 0.1) * rate * (1 << 20) / PAGE
        last = now
        for page in dice.sample(range(pages), min(int(owed), pages)):
            memory[page * PAGE + written % PAGE] = written & 0xFF
            written += 1
        owed -= int(owed)
        if now - noted > 0.2:
            noted = now
            file.write_text(f"{written} {longest:.4f}\n")


main()
