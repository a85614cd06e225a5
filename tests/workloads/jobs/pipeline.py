"""A job of threads, queues and open files: digests chained line by line.

``pipeline.py DIRECTORY STEPS``: makes ``input``, reads it with one thread, digests with three,
puts the answers in order with a fifth, and writes ``output``; ``done`` appears at the end. A step
that is lost, repeated or out of order changes the last line.
"""

from __future__ import annotations

import hashlib
import heapq
import queue
import sys
import threading
import time
from pathlib import Path

directory, steps = Path(sys.argv[1]), int(sys.argv[2])
WORKERS = 3


def make_input() -> Path:
    path = directory / "input"
    with path.open("w") as file:
        for number in range(steps):
            file.write(f"{number} {'x' * (number % 50)}\n")
    return path


def read(path: Path, lines: queue.Queue[tuple[int, str] | None]) -> None:
    with path.open() as file:
        for number, line in enumerate(file):
            lines.put((number, line))
            time.sleep(0.002)
    for _ in range(WORKERS):
        lines.put(None)


def digest(
    lines: queue.Queue[tuple[int, str] | None], answers: queue.Queue[tuple[int, str] | None]
) -> None:
    while (item := lines.get()) is not None:
        number, line = item
        value = line.encode()
        for _ in range(200):
            value = hashlib.sha256(value).digest()
        answers.put((number, value.hex()))
    answers.put(None)


def write(answers: queue.Queue[tuple[int, str] | None]) -> None:
    waiting: list[tuple[int, str]] = []
    expected, finished, chain = 0, 0, b""
    with (directory / "output").open("w", buffering=100) as output:
        while finished < WORKERS:
            item = answers.get()
            if item is None:
                finished += 1
                continue
            heapq.heappush(waiting, item)
            while waiting and waiting[0][0] == expected:
                number, value = heapq.heappop(waiting)
                chain = hashlib.sha256(chain + value.encode()).digest()
                output.write(f"{number} {chain.hex()}\n")
                expected += 1


def main() -> None:
    lines: queue.Queue[tuple[int, str] | None] = queue.Queue(maxsize=32)
    answers: queue.Queue[tuple[int, str] | None] = queue.Queue()
    threads = [threading.Thread(target=read, args=(make_input(), lines))]
    threads += [threading.Thread(target=digest, args=(lines, answers)) for _ in range(WORKERS)]
    threads += [threading.Thread(target=write, args=(answers,))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (directory / "done").write_text("done\n")


main()
