"""multiprocessing: a pool of forked workers, queues, pipes, locks and shared values."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

from act import ready_then_go, workload

context = multiprocessing.get_context("fork")


def work(tasks: Any, results: Any, total: Any, lock: Any) -> None:
    while (task := tasks.get()) is not None:
        with lock:
            total.value += task
        results.put((task, task * task))


with workload():
    tasks, results = context.Queue(), context.Queue()
    total, lock = context.Value("q", 0, lock=False), context.Lock()
    workers = [context.Process(target=work, args=(tasks, results, total, lock)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for number in range(100):
        tasks.put(number)
    answers = dict(results.get(timeout=30) for _ in range(50))

    ready_then_go()

    for number in range(100, 200):
        tasks.put(number)
    deadline = time.monotonic() + 60
    while len(answers) < 200 and time.monotonic() < deadline:
        task, square = results.get(timeout=30)
        answers[task] = square
    assert answers == {number: number * number for number in range(200)}
    assert total.value == sum(range(200))
    for _ in workers:
        tasks.put(None)
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
