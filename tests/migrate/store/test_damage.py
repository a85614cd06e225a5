"""Stores that were tampered with: a clear error or the right bytes, and a check that names it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from formats.errors import WherryError
from migrate.errors import StoreError
from migrate.store import packs
from migrate.store.check import CheckReport, check_store
from migrate.store.store import Store
from tests.migrate.store.samples import flip, new_store, noise, read_snapshot, write_snapshot


def check(store: Store, *, read_data: bool = True) -> CheckReport:
    return check_store(store, read_data=read_data, progress=lambda *_: None)


def files(store: Store, folder: str) -> list[Path]:
    return sorted(path for path in (Path(store.url) / folder).rglob("*") if path.is_file())


@pytest.fixture
def store(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(packs, "PACK_SIZE", 11_250)
    made = new_store(scratch / "s")
    write_snapshot(made, noise(1, 2, 3, 4), cid="one")
    write_snapshot(made, noise(3, 4, 5), cid="two")
    return made


def test_a_whole_store_has_no_damage(store: Store) -> None:
    report = check(store)
    assert report.damages == [] and report.notes == []
    assert (report.snapshots, report.chunks) == (2, 5)
    assert report.read_bytes == sum(path.stat().st_size for path in files(store, "packs"))


@pytest.mark.parametrize("folder", ["packs", "index", "snapshots"])
def test_a_missing_object_is_named(store: Store, folder: str) -> None:
    before = store.snapshots()
    gone = files(store, folder)[0]
    gone.unlink()
    report = check(store, read_data=False)
    if folder == "snapshots":
        assert report.damages == [] and report.snapshots == 1
        return
    assert [damage.reason for damage in report.damages] == [
        "missing" if folder == "packs" else "chunks-missing"
    ]
    if folder == "packs":
        assert gone.name in report.damages[0].name
    for snapshot in before:
        if snapshot.snapshot_id in report.touched:
            with pytest.raises(WherryError, match="missing"):
                read_snapshot(store, snapshot)
        else:
            read_snapshot(store, snapshot)
    assert report.touched


@pytest.mark.parametrize("folder", ["packs", "index", "snapshots"])
def test_a_truncated_object_is_named_without_reading_data(store: Store, folder: str) -> None:
    path = files(store, folder)[0]
    path.write_bytes(path.read_bytes()[:-7])
    damages = check(store, read_data=False).damages
    assert any(path.name in damage.name for damage in damages)
    assert any(damage.snapshots for damage in damages)


@pytest.mark.parametrize("folder", ["packs", "index", "snapshots"])
def test_every_flipped_bit_is_found(store: Store, folder: str) -> None:
    dice = random.Random(4)
    for path in files(store, folder):
        original = path.read_bytes()
        for _ in range(12):
            flip(path, dice.randrange(len(original)))
            report = check(store)
            assert any(path.name in damage.name for damage in report.damages), path
            assert report.touched
            path.write_bytes(original)
    assert check(store).damages == []


def test_swapped_objects_are_found(store: Store) -> None:
    for folder in ("packs", "index", "snapshots"):
        one, two = files(store, folder)[:2]
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
        assert len(check(store).damages) >= 2, folder
        one.write_bytes(first)
        two.write_bytes(second)


def test_swapped_chunks_within_a_pack_are_found(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(scratch / "t")
    snapshot = write_snapshot(store, noise(1, 2))
    (path,) = files(store, "packs")
    raw = path.read_bytes()
    head = len(raw) - 15_000
    path.write_bytes(raw[:head] + raw[head + 7_500 :] + raw[head : head + 7_500])
    assert "2 damaged chunks of 2" in check(store).damages[0].sentence
    with pytest.raises(WherryError, match="not what its name"):
        read_snapshot(store, snapshot)


def test_damage_gives_a_clear_error_or_the_right_bytes(store: Store, scratch: Path) -> None:
    """Whatever is changed, somebody who reads gets the truth or a sentence."""
    dice = random.Random(11)
    whole = scratch / "whole"
    shutil.copytree(store.url, whole)
    contents = {"one": noise(1, 2, 3, 4), "two": noise(3, 4, 5)}
    everything = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    wrong = 0
    for _ in range(150):
        victim = Path(store.url) / dice.choice(everything)
        raw = bytearray(victim.read_bytes())
        match dice.randrange(4):
            case 0:
                raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
            case 1:
                del raw[dice.randrange(len(raw)) :]
            case 2:
                at = dice.randrange(len(raw))
                raw[at : at + 8] = dice.randbytes(8)
            case _:
                raw += dice.randbytes(9)
        victim.write_bytes(raw)
        try:
            for snapshot in store.snapshots():
                assert read_snapshot(store, snapshot) == contents[snapshot.container_id]
        except WherryError as exc:
            assert len(str(exc)) > 20
            wrong += 1
        shutil.copyfile(whole / victim.relative_to(store.url), victim)
    assert wrong > 50


def test_strange_files_are_noted_and_harm_nothing(store: Store) -> None:
    (Path(store.url) / "index" / "readme").write_text("?")
    (Path(store.url) / "packs" / "zz").mkdir()
    (Path(store.url) / "packs" / "zz" / ("0" * 32)).write_text("?")
    report = check(store)
    assert report.damages == [] and len(report.notes) == 2
    assert len(store.snapshots()) == 2


@pytest.mark.parametrize("folder", ["config", "snapshots", "packs"])
@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_what_is_no_file_is_no_object(store: Store, folder: str, kind: str) -> None:
    """A fifo would make its reader wait for ever; a link leads to somebody else's file."""
    path = Path(store.url) / "config" if folder == "config" else files(store, folder)[0]
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(StoreError) as caught:
        store.backend.get(str(path.relative_to(store.url)), 0, 64)
    assert caught.value.reason in ("store-damaged", "store-error")
