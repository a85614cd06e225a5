"""A workload whose memory changes on request: ``changer.py MEBIBYTES CONTROL_DIR``.

For each file ``next`` that appears in the directory, holding a number of pages and either
``together`` or ``apart``, it writes that many new pages, in one place or all over, and removes it.
"""

from __future__ import annotations

import mmap
import os
import random
import sys
import time
from pathlib import Path

PAGE = mmap.PAGESIZE


def main() -> None:
    """Fill the memory, then change it as asked."""
    size, control = int(sys.argv[1]) << 20, Path(sys.argv[2])
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, size, 1 << 20):
        memory[offset : offset + (1 << 20)] = os.urandom(1 << 20)
    dice = random.Random(7)
    pages = size // PAGE
    request = control / "next"
    (control / "ready").touch()
    while True:
        if not request.exists():
            time.sleep(0.002)
            continue
        count, how = request.read_text().split()
        if how == "together":
            first = dice.randrange(pages - int(count))
            chosen = list(range(first, first + int(count)))
        else:
            chosen = dice.sample(range(pages), int(count))
        for page in chosen:
            memory[page * PAGE : (page + 1) * PAGE] = os.urandom(PAGE)
        request.unlink()


main()
