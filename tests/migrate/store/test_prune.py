"""Prune: what nobody needs goes, and nothing else, whoever else is at work."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from migrate.errors import StoreError
from migrate.store import packs
from migrate.store.check import check_store
from migrate.store.condemned import read_condemned
from migrate.store.locks import PRUNE, WRITE, Lock, read_locks
from migrate.store.objects import Kind
from migrate.store.prune import PruneReport, prune
from migrate.store.snapshots import Snapshot
from migrate.store.store import Store
from tests.migrate.store.samples import (
    BreaksOff,
    Interrupts,
    KilledError,
    flip,
    memory_store,
    new_store,
    noise,
    over,
    read_snapshot,
    write_snapshot,
)

SIZE = 2000


@pytest.fixture
def store(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(packs, "PACK_SIZE", 3 * SIZE)
    return new_store(scratch / "s")


def contents(*seeds: int) -> list[bytes]:
    return noise(*seeds, size=SIZE)


def again(store: Store) -> Store:
    return over(store, store.backend)


def written(store: Store, chunks: list[bytes]) -> Snapshot:
    """A snapshot, written without threads: for tests that write hundreds."""
    return write_snapshot(store, chunks, workers=0)


def whole(store: Store, expected: dict[bytes, list[bytes]]) -> None:
    """Nothing is damaged, and the snapshots are these, with these contents."""
    report = check_store(store, read_data=True, progress=lambda *_: None)
    assert report.damages == []
    found = {
        one.snapshot_id: read_snapshot(again(store), one, threads=False)
        for one in store.snapshots()
    }
    assert found == expected


def test_what_no_snapshot_needs_goes(store: Store) -> None:
    one = write_snapshot(store, contents(1, 2, 3, 4, 5, 6))
    two = write_snapshot(store, contents(1, 2, 3, 7, 8, 9))
    store.forget([one])
    dry = prune(store, dry_run=True)
    assert (dry.condemned_packs, len(store.sizes(Kind.PACK))) == (1, 3)
    report = prune(store)
    assert (report.removed_packs, report.copied_bytes, report.waiting_packs) == (1, 0, 0)
    assert len(store.sizes(Kind.PACK)) == 2
    whole(store, {two.snapshot_id: contents(1, 2, 3, 7, 8, 9)})
    assert prune(store).removed_packs == 0


def test_what_is_needed_of_a_pack_is_copied_first(store: Store) -> None:
    one = write_snapshot(store, contents(1, 2, 3, 4, 5, 6))
    two = write_snapshot(store, contents(2, 5))
    store.forget([one])
    assert prune(store, max_unused=0.7).condemned_packs == 0
    report = prune(store)
    assert (report.removed_packs, report.copied_bytes) == (2, 2 * SIZE)
    assert list(store.load_index().packs) == list(store.sizes(Kind.PACK))
    whole(store, {two.snapshot_id: contents(2, 5)})
    # The removed ones are written again when somebody has them again.
    three = write_snapshot(store, contents(1, 2))
    assert three.new_chunks == 1


def test_an_empty_store_is_left(store: Store) -> None:
    store.forget([write_snapshot(store, contents(1, 2, 3, 4))])
    prune(store)
    assert store.sizes(Kind.PACK) == store.sizes(Kind.INDEX) == {}


def test_small_packs_are_put_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_SIZE", 100 * SIZE)
    made = {
        write_snapshot(store, contents(number)).snapshot_id: contents(number) for number in range(9)
    }
    assert prune(store).removed_packs == 9
    assert len(store.sizes(Kind.PACK)) == len(store.sizes(Kind.INDEX)) == 1
    whole(store, made)


def test_a_writer_at_work_keeps_what_it_may_have_seen(store: Store) -> None:
    store.forget([write_snapshot(store, contents(1, 2, 3))])
    with Lock(store.backend, store.seal, WRITE):
        report = prune(store)
        assert (report.condemned_packs, report.removed_packs, report.waiting_packs) == (1, 0, 1)
        assert "pid" in report.waiting_for[0]
        # Who starts now does not rely on it, and does not keep it.
        made = write_snapshot(store, contents(1, 2, 3))
        assert made.new_chunks == 3
    with Lock(store.backend, store.seal, WRITE):
        report = prune(store)
    assert (report.condemned_packs, report.removed_packs, report.waiting_packs) == (0, 1, 0)
    whole(store, {made.snapshot_id: contents(1, 2, 3)})


def test_two_pruners_do_not_work_at_once(store: Store) -> None:
    with (
        Lock(store.backend, store.seal, PRUNE),
        pytest.raises(StoreError, match="is pruning it") as caught,
    ):
        prune(store)
    assert caught.value.reason == "store-locked"
    assert read_locks(store.backend, store.seal) == []


def test_nothing_goes_while_a_snapshot_cannot_be_read(store: Store) -> None:
    one = write_snapshot(store, contents(1))
    store.forget([write_snapshot(store, contents(2))])
    flip(Path(store.url) / "snapshots" / one.snapshot_id.hex(), 300)
    with pytest.raises(StoreError, match=f"what snapshot {one.short_id} needs"):
        prune(store)
    assert len(store.sizes(Kind.PACK)) == 2


def test_packs_of_a_killed_writer_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KilledError):
        write_snapshot(over(store, BreaksOff(store.backend, 2)), contents(1, 2, 3, 4, 5))
    assert len(store.sizes(Kind.PACK)) == 1
    assert prune(store).removed_packs == 0  # its lock says that it may live
    monkeypatch.setattr("migrate.store.locks.time.time_ns", lambda: 1 << 62)
    assert prune(store).removed_packs == 1
    assert read_locks(store.backend, store.seal) == []


def test_many_memories_become_one(store: Store) -> None:
    for number in range(20):
        store.forget([write_snapshot(store, contents(number))])
        prune(store)
    condemned = read_condemned(store.backend, store.seal)
    assert len(condemned) < 16
    assert sum(len(one.packs) for one in condemned) == 20


# Others at the same time


def _prepared(store: Store) -> tuple[Snapshot, dict[bytes, list[bytes]]]:
    """A store with a snapshot that stays and much to prune; the id of one to forget."""
    stays = written(store, contents(1, 2, 11, 12))
    goes = written(store, contents(3, 4, 5, 2, 6, 7))
    return goes, {stays.snapshot_id: contents(1, 2, 11, 12)}


def test_a_crash_of_a_prune_at_any_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_SIZE", 3 * SIZE)
    step = 0
    while True:
        store = memory_store()
        goes, expected = _prepared(store)
        store.forget([goes])
        try:
            prune(over(store, BreaksOff(store.backend, step)))
        except KilledError:
            whole(store, expected)
            made = written(store, contents(3, 4, 11))
            expected[made.snapshot_id] = contents(3, 4, 11)
            for lock in read_locks(store.backend, store.seal):
                store.backend.remove(lock.names[0])
            prune(store)
            whole(store, expected)
            assert set(store.load_index().packs) == set(store.sizes(Kind.PACK))
        else:
            break
        step += 1
    assert step >= 8


@pytest.mark.parametrize("clocks", ["right", "wrong"])
def test_a_prune_at_any_moment_of_a_writer(monkeypatch: pytest.MonkeyPatch, clocks: str) -> None:
    """With wrong clocks every lock seems to be abandoned; that may cost a snapshot, never data."""
    monkeypatch.setattr(packs, "PACK_SIZE", 3 * SIZE)
    if clocks == "wrong":
        monkeypatch.setattr("migrate.store.locks.LIFETIME_S", -1)
    moment, lost = 0, 0
    while True:
        store = memory_store()
        goes, expected = _prepared(store)

        def meanwhile(store: Store = store, goes: Snapshot = goes) -> PruneReport:
            store.forget([goes])
            return prune(again(store))

        backend = Interrupts(store.backend, moment, meanwhile)
        try:
            made = written(over(store, backend), contents(3, 4, 11, 20, 2, 6))
            expected[made.snapshot_id] = contents(3, 4, 11, 20, 2, 6)
        except StoreError as exc:
            assert clocks == "wrong" and exc.reason in ("lock-lost", "store-damaged")
            lost += 1
        if moment >= backend.operations:
            break
        whole(store, expected)
        prune(store)
        whole(store, expected)
        moment += 1
    assert moment >= 10
    assert bool(lost) == (clocks == "wrong")


@pytest.mark.parametrize("clocks", ["right", "wrong"])
def test_a_writer_and_another_prune_at_any_moment_of_a_prune(
    monkeypatch: pytest.MonkeyPatch, clocks: str
) -> None:
    """Whatever a pruner has seen before it was held up, it does no harm afterwards."""
    monkeypatch.setattr(packs, "PACK_SIZE", 3 * SIZE)
    if clocks == "wrong":
        monkeypatch.setattr("migrate.store.locks.LIFETIME_S", -1)
    moment = 0
    while True:
        store = memory_store()
        goes, expected = _prepared(store)
        store.forget([goes])

        def meanwhile(store: Store = store, expected: dict[bytes, list[bytes]] = expected) -> None:
            try:
                prune(again(store))
            except StoreError as exc:
                assert exc.reason in ("store-locked", "lock-lost")
            for seeds in ((3, 4, 11, 20), (6, 7, 1)):
                made = written(again(store), contents(*seeds))
                expected[made.snapshot_id] = contents(*seeds)
            third = written(again(store), contents(30, 31, 32, 5))
            store.forget([third])
            try:
                prune(again(store))
            except StoreError as exc:
                assert exc.reason in ("store-locked", "lock-lost")

        backend = Interrupts(store.backend, moment, meanwhile)
        try:
            prune(over(store, backend))
        except StoreError as exc:
            assert exc.reason in ("lock-lost", "object-missing", "store-locked")
        if moment >= backend.operations:
            break
        whole(store, expected)
        prune(store)
        whole(store, expected)
        moment += 1
    assert moment > 30


def test_two_writers_and_a_pruner_in_parallel(store: Store) -> None:
    expected: dict[bytes, list[bytes]] = {}
    errors: list[BaseException] = []
    done = threading.Event()
    changing = threading.Lock()

    def write(seed: int) -> None:
        dice = random.Random(seed)
        try:
            for _ in range(15):
                seeds = [dice.randrange(40) for _ in range(8)]
                made = write_snapshot(again(store), contents(*seeds))
                with changing:
                    expected[made.snapshot_id] = contents(*seeds)
                    if len(expected) > 4:
                        goes = dice.choice(list(expected))
                        del expected[goes]
                        found = {one.snapshot_id: one for one in store.snapshots()}
                        store.forget([found[goes]])
        except BaseException as exc:
            errors.append(exc)

    def sweep() -> None:
        try:
            while not done.is_set():
                prune(again(store))
        except BaseException as exc:
            errors.append(exc)

    writers = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
    pruner = threading.Thread(target=sweep)
    for thread in (*writers, pruner):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    pruner.join()
    assert errors == []
    whole(store, expected)
    prune(store)
    whole(store, expected)
    stored = sum(store.sizes(Kind.PACK).values())
    assert stored < 2 * len(set().union(*map(set, expected.values()))) * SIZE
