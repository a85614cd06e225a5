"""Indexes of more chunks than are held in memory: they answer as small ones do."""

from __future__ import annotations

import random
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from migrate.store import check, index, packs, prune, stats
from migrate.store.check import check_store
from migrate.store.index import ChunkMap, Entry, PackInfo, Section
from migrate.store.name_table import NAME_SIZE, NameSet, NameTable
from migrate.store.objects import Kind, name_of
from migrate.store.stats import read_stats
from migrate.store.store import Store, init_store
from tests.migrate.store.samples import noise, read_snapshot, write_snapshot


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than three chunks are many."""
    for module in (index, prune, check, stats):
        monkeypatch.setattr(module, "MANY", 3)
    monkeypatch.setattr(index, "_BATCH", 7)
    monkeypatch.setattr(packs, "PACK_SIZE", 11_250)


def sections(dice: random.Random, names: Sequence[bytes], count: int) -> list[Section]:
    """Packs with some of the names; many are in several."""
    found = []
    for _ in range(count):
        chosen = dice.sample(names, dice.randrange(1, 9))
        entries, offset = [], 0
        for name in chosen:
            size = dice.randrange(1, 1 << 20)
            entries.append(Entry(name, offset, size, size + dice.randrange(3), dice.randrange(2)))
            offset += size
        found.append((PackInfo(dice.randbytes(16), 500, offset), entries))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_it_answers_as_a_small_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(seed)
    # Names with equal beginnings, so that buckets have several.
    starts = [dice.randbytes(2) for _ in range(20)]
    names = [dice.choice(starts) + dice.randbytes(NAME_SIZE - 2) for _ in range(200)]
    told = [sections(dice, names, 10) for _ in range(8)]
    ids = [info.pack_id for some in told for info, _ in some]
    masked = dice.sample(ids, dice.choice([0, 20, len(ids)]))
    small = ChunkMap(masked)
    monkeypatch.setattr(index, "_BATCH", 13)
    monkeypatch.setattr(index, "MANY", 50)
    large = ChunkMap(masked)
    monkeypatch.setattr(index, "MANY", 10**9)
    for number, some in enumerate(told):
        small.add(bytes([number]) * 16, some)
        monkeypatch.setattr(index, "MANY", 50)
        large.add(bytes([number]) * 16, some)
        monkeypatch.setattr(index, "MANY", 10**9)
        for name in dice.sample(names, 20):  # questions in between
            assert large.find(name) == small.find(name)
    assert small._table is None and large._table is not None
    assert large.packs == small.packs and large.by_object == small.by_object
    assert len(large) == len(small) and sorted(large) == sorted(small)
    for name in [*names, *(dice.randbytes(NAME_SIZE) for _ in range(50))]:
        assert large.find(name) == small.find(name)
        assert large.has(name) == small.has(name)
    wanted = [*dice.sample(ids, 10), bytes(16)]
    of_large, of_small = large.entries_of(wanted), small.entries_of(wanted)
    assert {pack: sorted(of) for pack, of in of_large.items()} == {
        pack: sorted(of) for pack, of in of_small.items()
    }


def test_a_table() -> None:
    dice = random.Random(5)
    records = [dice.randbytes(40) for _ in range(20_000)]
    records += [records[7][:NAME_SIZE] + dice.randbytes(8) for _ in range(3)]
    table = NameTable(40)
    assert len(table) == 0 and list(table) == [] and table.find(bytes(32)) == []
    for at in range(0, len(records), 3000):
        table.add(records[at : at + 3000])
        assert table.find(records[at][:NAME_SIZE])
    assert list(table.records()) == sorted(records)
    assert list(table) == sorted({record[:NAME_SIZE] for record in records})
    assert len(table) == 20_000
    assert len(table.find(records[7][:NAME_SIZE])) == 4
    wrong: list[bytes] = []

    def ask(some: Sequence[bytes]) -> None:
        wrong.extend(one for one in some if one[NAME_SIZE:] not in table.find(one[:NAME_SIZE]))

    threads = [threading.Thread(target=ask, args=(records[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    table.close()
    table.close()


def test_a_name_that_lies_across_two_records_is_not_found() -> None:
    table = NameTable(NAME_SIZE + 12)
    records = [b"ab" + bytes([n]) * 42 for n in range(9)]
    table.add(records)
    for at in range(1, 40):
        assert table.find((records[3] + records[4])[at : at + NAME_SIZE]) == []
    assert table.find(records[3][:NAME_SIZE]) == [records[3][NAME_SIZE:]]


@pytest.mark.parametrize("most", [1, 10, 10_000])
def test_a_set(most: int) -> None:
    dice = random.Random(most)
    names = [dice.randbytes(NAME_SIZE) for _ in range(300)]
    found = NameSet(most)
    for _ in range(5):
        found.update(dice.sample(names, 200))
        found.update(iter(names[:3]))
    found.update(names)
    assert sorted(found) == sorted(names)
    found.update([bytes(NAME_SIZE)])
    assert sorted(found) == sorted([*names, bytes(NAME_SIZE)])


def test_memory_is_bounded() -> None:
    """Ten times as many records take the same memory, but for what a 256th of them has."""
    peaks = []
    for count in (40_000, 400_000):
        dice = random.Random(1)
        table = NameTable(44)
        tracemalloc.start()
        for _ in range(0, count, 10_000):
            table.add([dice.randbytes(44) for _ in range(10_000)])
        assert len(table) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        table.close()
    assert peaks[1] < 1.3 * peaks[0] < 8 << 20


def pack_files(store: Store) -> list[Path]:
    return sorted(path for path in (Path(store.url) / "packs").rglob("*") if path.is_file())


def test_a_store_with_many(few: None, scratch: Path) -> None:
    store = init_store(str(scratch / "s"), None)
    contents = [noise(*range(at, at + 6)) for at in range(0, 12, 3)]
    made = [write_snapshot(store, one) for one in contents]
    assert [one.new_chunks for one in made] == [6, 3, 3, 3]
    assert store.load_index()._table is not None
    counted = read_stats(store)
    assert (counted.chunks, counted.snapshots) == (15, 4)
    for number in (0, 2):
        store.backend.remove(name_of(Kind.SNAPSHOT, made[number].snapshot_id))
    report = prune.prune(store, max_unused=0)
    assert report.removed_packs and len(store.load_index()) == 12
    for number in (1, 3):
        assert read_snapshot(store, made[number]) == contents[number]
    checked = check_store(store, read_data=True, progress=lambda *_: None)
    assert checked.damages == [] and checked.chunks == 12
    # Damage is found, and whom it touches.
    damaged = pack_files(store)[0]
    raw = bytearray(damaged.read_bytes())
    raw[-1] ^= 1
    damaged.write_bytes(raw)
    (damage,) = check_store(store, read_data=True, progress=lambda *_: None).damages
    assert damage.reason == "damaged" and damage.snapshots
    damaged.unlink()
    (missing,) = check_store(store, read_data=False, progress=lambda *_: None).damages
    assert missing.reason == "missing" and set(damage.snapshots) <= set(missing.snapshots)
