"""``wherry image`` on snapshots: inspect, verify, export, import, tag, rm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from formats.statefile import StateFile, verify_file
from migrate.store.snapshots import Snapshot
from tests.formats.samples import half_compressible
from tests.formats.samples import write_image as write_state_file
from tests.migrate.cli.test_image import container_records
from tests.migrate.store.samples import flip, new_store, noise, write_snapshot
from tests.support.command import Wherry

MIB = 1 << 20


@pytest.fixture
def state_file(scratch: Path) -> Path:
    path = scratch / "image.wherry"
    chunks = [
        (100, number * MIB, ((number * MIB, MIB),), half_compressible(MIB, number))
        for number in (1, 2, 3)
    ]
    with StateFile(path) as file:
        write_state_file(file, container_records(), chunks)
        file.commit()
    return path


@pytest.fixture
def store(wherry: Wherry, scratch: Path) -> str:
    url = str(scratch / "store")
    wherry.env["WHERRY_STORE"] = url
    wherry("store", "init")
    return url


def two(store: str) -> tuple[Snapshot, Snapshot]:
    from migrate.store.config import Operation
    from migrate.store.store import open_store

    with open_store(store, Operation.WRITE, lambda *_: pytest.fail("no key")) as opened:
        first = write_snapshot(opened, noise(1, 2), created_ns=1)
        return first, write_snapshot(opened, noise(2, 3), tags=("x",))


def test_a_state_file_goes_in_and_comes_out_the_same(
    wherry: Wherry, store: str, state_file: Path, scratch: Path
) -> None:
    made = wherry.json("image", "import", "--tag", "kept", "--json", state_file)
    assert (made["container_id"], made["tags"], made["chunks"]) == ("web", ["kept"], 3 * 128)
    again = wherry.json("image", "import", "--json", state_file)
    assert again["new_bytes"] == 0
    assert len(wherry.json("image", "ls", "--json")) == 2
    out = scratch / "out.wherry"
    wherry("image", "export", f"{store}:kept", out)
    assert verify_file(out).root == verify_file(state_file).root
    assert out.read_bytes() == state_file.read_bytes()


def test_a_snapshot_goes_into_another_store(wherry: Wherry, store: str, scratch: Path) -> None:
    two(store)
    (scratch / "key").write_bytes(b"k" * 40)
    other = ("--store", scratch / "other", "--key-file", scratch / "key")
    wherry("store", "init", "--encrypt", *other)
    # The secret of the options is the other store's; this one needs none.
    wherry("image", "export", "x", scratch / "x.wherry")
    made = wherry.json("image", "import", *other, "--json", scratch / "x.wherry")
    assert made["chunks"] == 2
    assert wherry.json("image", "verify", *other, "--json", made["id"])["ok"]


def test_inspect_and_verify(wherry: Wherry, store: str, state_file: Path) -> None:
    made = wherry.json("image", "import", "--json", state_file)
    whole = wherry.json("image", "inspect", "--json", state_file)
    report = wherry.json("image", "inspect", "--json", made["id"][:8])
    assert report["format"]["features"] == ["external-chunks"]
    for key in ("processes", "memory", "files", "trees", "plain_bytes", "container_id"):
        assert _without_chunks(report[key]) == _without_chunks(whole[key]), key
    assert "python3" in wherry("image", "inspect", "latest").stdout
    verified = wherry.json("image", "verify", "--json", "latest")
    assert verified["ok"] and verified["chunks"] == 3 * 128
    assert "in a store" in wherry("image", "verify", "latest").stdout
    (pack,) = (path for path in (Path(store) / "packs").rglob("*") if path.is_file())
    flip(pack, 100_000)
    assert "not what its name" in wherry.fails("image", "verify", "latest").stderr


def _without_chunks(value: Any) -> Any:
    """Without how many chunks there are, and their stored bytes: a store has smaller ones."""
    if isinstance(value, dict):
        left = {key: one for key, one in value.items() if key not in ("chunks", "stored_bytes")}
        return {key: _without_chunks(one) for key, one in left.items()}
    return [_without_chunks(one) for one in value] if isinstance(value, list) else value


def test_tags(wherry: Wherry, store: str) -> None:
    first, second = two(store)
    assert wherry("image", "tag", first.short_id, "a", "b").stdout == "a b\n"
    assert wherry("image", "tag", "b", "--remove", "a", "c").stdout == "b c\n"
    listed = wherry.json("snapshots", "--json")
    assert [one["tags"] for one in listed] == [["b", "c"], ["x"]]
    assert listed[0]["id"] == first.snapshot_id.hex()
    assert wherry.json("image", "verify", "--json", "c")["ok"]
    assert "is no tag" in wherry.fails("image", "tag", second.short_id, "la la").stderr


def test_rm(wherry: Wherry, store: str) -> None:
    first, second = two(store)
    wherry("image", "rm", "x")
    (left,) = wherry.json("snapshots", "--json")
    assert left["id"] == first.snapshot_id.hex()
    flip(Path(store) / "snapshots" / left["id"], 100)
    assert wherry("store", "prune", check=False).returncode != 0
    wherry.fails("image", "rm", "latest")
    wherry("image", "rm", left["id"])
    wherry("store", "prune")
    assert wherry.json("store", "stats", "--json")["packs"] == 0
    assert "no snapshot" in wherry.fails("image", "rm", second.short_id).stderr


def test_a_name_that_is_nothing(wherry: Wherry, store: str, scratch: Path) -> None:
    assert "No such file" in wherry.fails("image", "verify", scratch / "none").stderr
    assert "no snapshot 'none'" in wherry.fails("image", "verify", "none").stderr
    wherry.env.pop("WHERRY_STORE")
    assert "No such file" in wherry.fails("image", "verify", "none").stderr
    new_store(scratch / "empty")
    assert "no snapshot" in wherry.fails("image", "inspect", f"{scratch}/empty:latest").stderr
