"""CPython with threads, locks, queues, conditions, generators and open files."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Iterator

from act import ready_then_go, wait_for, workload


def squares() -> Iterator[tuple[int, int]]:
    total = 0
    for number in range(10_000_000):
        total += number * number
        yield number, total


with workload() as control:
    numbers: queue.Queue[int | None] = queue.Queue(maxsize=50)
    results: queue.Queue[int] = queue.Queue()
    condition = threading.Condition()
    turns = [0]
    stop = threading.Event()

    def produce() -> None:
        number = 0
        while not stop.is_set():
            numbers.put(number)
            number += 1
        for _ in range(4):
            numbers.put(None)

    def consume() -> None:
        while (number := numbers.get()) is not None:
            results.put(number * 3)

    def take_turns(index: int) -> None:
        while not stop.is_set():
            with condition:
                condition.wait_for(lambda: turns[0] % 3 == index or stop.is_set(), timeout=60)
                turns[0] += 1
                condition.notify_all()

    threads = [threading.Thread(target=produce)]
    threads += [threading.Thread(target=consume) for _ in range(4)]
    threads += [threading.Thread(target=take_turns, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    generator = squares()
    taken = [next(generator) for _ in range(1000)]
    dice = random.Random(42)
    first = [dice.random() for _ in range(100)]
    log = (control / "log").open("w+", buffering=1)
    log.write("before\n")
    reader = (control / "log").open()
    assert reader.readline() == "before\n"
    local = threading.local()
    local.value = "mine"
    start = time.monotonic()

    ready_then_go()

    assert time.monotonic() >= start
    before = turns[0]
    wait_for(lambda: turns[0] > before + 100)
    assert next(generator) == (1000, sum(n * n for n in range(1001)))
    again = random.Random(42)
    assert first == [again.random() for _ in range(100)]
    assert [dice.random() for _ in range(10)] == [again.random() for _ in range(10)]
    log.write("after\n")
    assert reader.readline() == "after\n"
    assert local.value == "mine"
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    found = sorted(results.get_nowait() for _ in range(results.qsize()))
    assert found == [3 * number for number in range(len(found))]
