"""A store as the page describes it: read by code that shares nothing with wherry's."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.store import packs
from tests.migrate.store.independent_reader import RefusedError, read_store
from tests.migrate.store.samples import flip, new_store, noise, write_snapshot


def test_it_reads_what_we_write(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_SIZE", 11_250)
    store = new_store(scratch / "s")
    first = write_snapshot(store, [*noise(1, 2), b"z" * 8_000], tags=("x",))
    second = write_snapshot(store, noise(2, 3), cid="other")
    found = read_store(scratch / "s")
    assert set(found) == {first.snapshot_id.hex(), second.snapshot_id.hex()}
    one = found[first.snapshot_id.hex()]
    assert one.description["container_id"] == "job" and one.description["tags"] == ["x"]
    assert [kind for kind, _ in one.records] == ["image", "host", "shared-memory"]
    assert [plain for _, plain in one.chunks] == [*noise(1, 2), b"z" * 8_000]
    assert one.root == first.root


def test_it_refuses_what_is_damaged(scratch: Path) -> None:
    store = new_store(scratch / "s")
    write_snapshot(store, noise(1))
    (pack,) = (path for path in (scratch / "s" / "packs").rglob("*") if path.is_file())
    flip(pack, 5_600)
    with pytest.raises(RefusedError, match="name"):
        read_store(scratch / "s")
