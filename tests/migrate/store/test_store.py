"""Writing snapshots into a store and reading them back; crashes in between."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest

from formats.errors import ImageVersionError
from formats.limits import CHUNK_SIZE
from formats.statefile import ImageReader
from migrate.errors import StoreError
from migrate.store import packs
from migrate.store.check import check_store
from migrate.store.config import Operation, StoreConfig, new_config, pack_config, unpack_config
from migrate.store.locks import WRITE, Lock, read_locks
from migrate.store.objects import Kind
from migrate.store.snapshots import Snapshot, check_tag, find_snapshot
from migrate.store.stats import read_stats
from migrate.store.store import Store, init_store, open_store
from migrate.store.writer import writing
from tests.migrate.store.samples import (
    MOMENT_NS,
    BreaksOff,
    KilledError,
    local,
    new_store,
    noise,
    over,
    read_snapshot,
    write_snapshot,
)


@pytest.fixture
def store(scratch: Path) -> Store:
    return new_store(scratch / "s")


def reopened(store: Store, operation: Operation = Operation.READ) -> Store:
    return open_store(store.url, operation, lambda *_: pytest.fail("asked for a key"))


def quiet(_stage: str, _done: int, _total: int) -> None:
    pass


def test_a_snapshot_comes_back(store: Store) -> None:
    contents = [*noise(1, 2), b"x" * CHUNK_SIZE, *noise(3, size=CHUNK_SIZE)]
    snapshot = write_snapshot(store, contents, tags=("b", "a"))
    with reopened(store) as other:
        assert other.snapshots() == [snapshot]
        assert read_snapshot(other, snapshot) == contents
    assert (snapshot.container_id, snapshot.hostname, snapshot.tags) == ("job", "here", ("a", "b"))
    # A mebibyte is cut into 128 pieces; those of x are all one.
    assert (snapshot.chunks, snapshot.new_chunks) == (1 + 1 + 128 + 128, 1 + 1 + 1 + 128)
    assert snapshot.plain_bytes == sum(map(len, contents))


def test_equal_chunks_are_stored_once(store: Store) -> None:
    first = write_snapshot(store, noise(1, 2, 1, 3))
    assert (first.chunks, first.new_chunks) == (4, 3)
    second = write_snapshot(store, noise(3, 4, 2))
    assert (second.new_chunks, second.new_bytes) == (1, 7_500)
    third = write_snapshot(store, noise(3, 4, 2))
    assert third.new_bytes == 0
    assert third.snapshot_id != second.snapshot_id
    assert read_snapshot(store, third) == noise(3, 4, 2)
    stats = read_stats(store)
    assert (stats.snapshots, stats.chunks, stats.plain_bytes) == (3, 4, 10 * 7_500)
    assert (stats.unique_bytes, stats.stored_bytes) == (4 * 7_500, 4 * 7_500)


def test_many_packs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_SIZE", 18_750)
    contents = noise(*range(40))
    snapshot = write_snapshot(store, contents)
    assert len(store.sizes(Kind.PACK)) >= 13
    assert read_snapshot(reopened(store), snapshot) == contents


def test_an_empty_image_is_a_snapshot(store: Store) -> None:
    snapshot = write_snapshot(store, [])
    assert read_snapshot(store, snapshot) == []
    assert store.sizes(Kind.PACK) == {}


def test_nothing_of_the_store_is_for_others(store: Store) -> None:
    write_snapshot(store, noise(1))
    for path in [Path(store.url), *Path(store.url).rglob("*")]:
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_an_image_without_contents_is_no_state_file(store: Store) -> None:
    import io

    snapshot = write_snapshot(store, noise(1))
    _, image = store.read_image(snapshot.snapshot_id)
    with pytest.raises(ImageVersionError, match="external-chunks"):
        ImageReader(io.BytesIO(image), name="x")


def test_init_refuses_a_store_that_is_there(store: Store) -> None:
    with pytest.raises(StoreError, match="already") as caught:
        init_store(store.url)
    assert caught.value.reason == "store-exists"


def test_open_says_that_there_is_no_store(scratch: Path) -> None:
    with pytest.raises(StoreError, match="wherry store init") as caught:
        open_store(str(scratch / "none"), Operation.READ, lambda *_: pytest.fail("no key"))
    assert caught.value.reason == "not-a-store"


# The configuration


@pytest.mark.parametrize("operation", list(Operation))
def test_a_feature_is_refused_for_its_operation_alone(store: Store, operation: Operation) -> None:
    words = [0] * 5
    words[operation] = 1 << 9
    config = StoreConfig(b"i" * 16, compatible=1 << 3, incompatible=(*words,))  # type: ignore[arg-type]
    (Path(store.url) / "config").write_bytes(pack_config(config))
    for one in Operation:
        if one is operation or operation is Operation.READ:
            with pytest.raises(StoreError, match="feature bit 9") as caught:
                reopened(store, one)
            assert caught.value.reason == "store-version"
        else:
            assert reopened(store, one).config == config


@pytest.mark.parametrize("at", range(128))
def test_a_flipped_bit_of_the_configuration_is_found(at: int) -> None:
    raw = bytearray(pack_config(new_config(encrypted=False)))
    raw[at] ^= 4
    with pytest.raises(StoreError):
        unpack_config(bytes(raw), "s")


# A crash


def test_a_crash_at_any_step_leaves_a_store_that_opens(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "PACK_SIZE", 13_125)
    before = write_snapshot(store, noise(1, 2))
    counting = BreaksOff(local(store), 10_000)
    write_snapshot(over(store, counting), noise(1, 3, 4, 5, 6))
    assert counting.changes >= 6  # lock, three packs, index, snapshot, lock again
    for after in range(counting.changes - 1):
        contents = noise(1, 2, *range(after * 10, after * 10 + 5))
        broken = over(store, BreaksOff(local(store), after))
        with pytest.raises(KilledError):
            write_snapshot(broken, contents, cid=f"crash-{after}")
        report = check_store(reopened(store), read_data=True, progress=quiet)
        assert report.damages == [], after
        again = write_snapshot(reopened(store), contents)
        assert read_snapshot(store, again) == contents
    assert read_snapshot(store, before) == noise(1, 2)


def test_what_was_published_stays_although_the_writer_dies_then(store: Store) -> None:
    counting = BreaksOff(local(store), 10_000)
    write_snapshot(over(store, counting), noise(1))
    # Only the removal of its lock is missing.
    broken = over(store, BreaksOff(local(store), counting.changes - 1))
    with pytest.raises(KilledError):
        write_snapshot(broken, noise(2), cid="last")
    (found,) = [one for one in store.snapshots() if one.container_id == "last"]
    assert read_snapshot(store, found) == noise(2)
    assert len(read_locks(store.backend, store.seal)) == 1


def test_a_pack_that_vanished_is_noticed_before_the_snapshot_appears(store: Store) -> None:
    write_snapshot(store, noise(1))
    with pytest.raises(StoreError, match="is missing"), writing(store) as writer:
        from formats.records.image import Image
        from tests.formats.samples import copy_of

        writer.add_record(Image("job", 1, "0.1", {}, {}))
        (content,) = noise(1)
        writer.add_chunk(1, 0, [(0, len(content))], copy_of(content))
        writer.finish()
        for path in (Path(store.url) / "packs").rglob("*"):
            if path.is_file():
                path.unlink()
        writer.publish()
    assert len(store.snapshots()) == 1


def test_a_writer_whose_lock_was_removed_takes_its_snapshot_back(store: Store) -> None:
    with pytest.raises(StoreError) as caught, writing(store) as writer:
        from formats.records.image import Image

        writer.add_record(Image("job", 1, "0.1", {}, {}))
        writer.finish()
        (lock,) = read_locks(store.backend, store.seal)
        store.backend.remove(lock.names[0])
        writer.publish()
    assert caught.value.reason == "lock-lost"
    assert store.snapshots() == []


def test_renewing_a_lock_needs_the_old_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.store.locks.REFRESH_S", 0)
    with Lock(store.backend, store.seal, WRITE) as lock:
        lock.refresh()
        (info,) = read_locks(store.backend, store.seal)
        assert info.names == (f"locks/{lock.lock_id.hex()}-1",)
        store.backend.remove(info.names[0])
        with pytest.raises(StoreError, match="was not renewed in time"):
            lock.refresh()
    assert read_locks(store.backend, store.seal) == []


# How snapshots are named


def _named(number: int, cid: str, hour: int, *tags: str) -> Snapshot:
    created_ns = MOMENT_NS - MOMENT_NS % (86_400 * 10**9) + hour * 3600 * 10**9
    return Snapshot(bytes([number]) * 16, cid, created_ns, "h", tags, b"", 0, 0, 0, 0, 0, 0, "0.1")


SNAPSHOTS = [
    _named(0xAB, "web", 1, "ok"),
    _named(0xAC, "job", 2, "ok"),
    _named(0xBC, "web", 3, "abab"),
]


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        ("latest", 2),
        ("ab", 0),
        ("acac", 1),
        ("b", 2),
        ("ok", 1),
        ("abab", 2),
        ("ab" * 16, 0),
        ("web", 2),
        ("web@2023-11-14T02:59", 0),
        ("web@2023-11-14T03:00:00Z", 2),
        ("web@2023-11-14", 2),
        ("job@2023-11-14 02:00:00", 1),
    ],
)
def test_names_of_snapshots(wanted: str, number: int) -> None:
    assert find_snapshot(SNAPSHOTS, wanted, "s") is SNAPSHOTS[number]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("a", "ambiguous-snapshot"),
        ("nobody", "no-such-snapshot"),
        ("web@2023-11-13", "no-such-snapshot"),
        ("web@tomorrow", "time"),
    ],
)
def test_names_that_fit_none_or_several(wanted: str, reason: str) -> None:
    with pytest.raises(StoreError) as caught:
        find_snapshot(SNAPSHOTS, wanted, "s")
    assert caught.value.reason == reason


@pytest.mark.parametrize("tag", ["", "latest", "a b", "-x", "x" * 129, "ä", "a\n"])
def test_bad_tags_are_refused(tag: str) -> None:
    with pytest.raises(StoreError, match="is no tag"):
        check_tag(tag)


def test_a_job_that_changes_one_page_in_a_hundred(store: Store) -> None:
    """All over its memory, in pages that do not compress: the worst that there is."""
    dice = random.Random(3)
    memory = bytearray(dice.randbytes(16 * CHUNK_SIZE))
    pages = len(memory) // 4096

    def windows() -> list[bytes]:
        return [bytes(memory[at : at + CHUNK_SIZE]) for at in range(0, len(memory), CHUNK_SIZE)]

    first = write_snapshot(store, windows())
    before = sum(entry.size for entry in store.backend.entries())
    for page in dice.sample(range(pages), pages // 100):
        memory[page * 4096 : (page + 1) * 4096] = dice.randbytes(4096)
    second = write_snapshot(store, windows())
    grown = sum(entry.size for entry in store.backend.entries()) - before
    assert grown <= 0.025 * len(memory)
    assert first.new_bytes == len(memory) and second.new_bytes < 0.021 * len(memory)
    assert read_snapshot(store, second) == windows()
