"""multiprocessing with everything it has: shared memory, semaphores, queues, a pool, a manager.

Workers move money between accounts in shared memory; whatever happens, the total stays. A queue
brings each worker's own account of what it did, a pool computes digests, and a condition starts
everybody's rounds together.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import struct
import time
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier, BoundedSemaphore, Condition, Event, Lock
from typing import Any

import conduct

WORKERS = 4
ACCOUNTS = 5000
START = 1000


def transfer(
    number: int,
    name: str,
    locks: list[Lock],
    room: BoundedSemaphore,
    barrier: Barrier,
    inside: Synchronized[int],
    ending: Event,
    answers: Any,
) -> None:
    """Move money until the end, in rounds that all workers begin together."""
    memory = SharedMemory(name)
    dice = random.Random(number)
    balance = 0
    while True:
        barrier.wait(60)
        if ending.is_set():
            break
        # Nobody may set it before everybody has looked.
        barrier.wait(60)
        for _ in range(200):
            one, other = sorted(dice.sample(range(ACCOUNTS), 2))
            with room, locks[one % len(locks)]:
                with inside.get_lock():
                    inside.value += 1
                    assert inside.value <= 2, "more in the room than the semaphore lets in"
                amount = dice.randint(-50, 50)
                # Both accounts under one lock: the second has the same remainder.
                other = one + (other - one) // len(locks) * len(locks)
                add(memory, one, -amount)
                add(memory, other, amount)
                with inside.get_lock():
                    inside.value -= 1
            balance += amount
        answers.put((number, 200, balance))
    answers.put((number, None, balance))
    memory.close()


def add(memory: SharedMemory, account: int, amount: int) -> None:
    (now,) = struct.unpack_from("<q", content(memory), 8 * account)
    struct.pack_into("<q", content(memory), 8 * account, now + amount)


def content(memory: SharedMemory) -> memoryview:
    assert memory.buf is not None
    return memory.buf


def digest(seed: int) -> tuple[int, str]:
    value = seed.to_bytes(8, "little")
    for _ in range(300):
        value = hashlib.sha256(value).digest()
    return seed, value.hex()


def notify(condition: Condition, turns: Synchronized[int], ending: Event) -> None:
    """Take turns with the main process: odd numbers are ours."""
    while not ending.is_set():
        with condition:
            if not condition.wait_for(lambda: turns.value % 2 == 1 or ending.is_set(), 60):
                raise TimeoutError("no turn within a minute")
            if turns.value % 2 == 1:
                turns.value += 1
            condition.notify_all()


def main() -> None:
    multiprocessing.set_start_method("fork")
    memory = SharedMemory(create=True, size=8 * ACCOUNTS)
    for account in range(ACCOUNTS):
        struct.pack_into("<q", content(memory), 8 * account, START)
    locks = [multiprocessing.Lock() for _ in range(7)]
    room, inside = multiprocessing.BoundedSemaphore(2), multiprocessing.Value("i", 0)
    ending, barrier = multiprocessing.Event(), multiprocessing.Barrier(WORKERS + 1)
    answers: Any = multiprocessing.Queue()
    condition, turns = multiprocessing.Condition(), multiprocessing.Value("l", 0)
    workers = [
        multiprocessing.Process(
            target=transfer,
            args=(number, memory.name, locks, room, barrier, inside, ending, answers),
        )
        for number in range(WORKERS)
    ]
    workers.append(multiprocessing.Process(target=notify, args=(condition, turns, ending)))
    for worker in workers:
        worker.start()
    transfers = dict.fromkeys(range(WORKERS), 0)
    with multiprocessing.Pool(2) as pool, multiprocessing.Manager() as manager:
        results = manager.dict()
        seed = 0
        while not conduct.stopping():
            wanted = range(seed, seed + 24)
            pending = pool.imap_unordered(digest, wanted, chunksize=3)
            barrier.wait(60)
            barrier.wait(60)
            for one, value in pending:
                results[one] = value
            seed = wanted.stop
            for _ in range(WORKERS):
                number, count, _balance = answers.get(timeout=60)
                transfers[number] += count
            with condition:
                turns.value += 1
                condition.notify_all()
                assert condition.wait_for(lambda: turns.value % 2 == 0, 60), "no turn"
            if seed >= 72:
                conduct.ready()
        for one in random.Random(1).sample(range(seed), 20):
            assert results[one] == digest(one)[1]
        assert len(results) == seed
    ending.set()
    barrier.wait(60)
    with condition:
        condition.notify_all()
    for _ in range(WORKERS):
        number, count, _balance = answers.get(timeout=60)
        assert count is None
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0, worker
    total = sum(struct.unpack(f"<{ACCOUNTS}q", content(memory)[: 8 * ACCOUNTS]))
    assert total == ACCOUNTS * START, total
    assert set(transfers.values()) == {seed // 24 * 200}, transfers
    memory.close()
    memory.unlink()
    conduct.done(f"{sum(transfers.values())} transfers at {time.strftime('%H:%M:%S')}")


main()
