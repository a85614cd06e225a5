"""Real containers into stores on real servers and out again, through the command line.

What the commands do with a store is shown in a directory (tests/migrate/cli); here are those that
must open the server's connections in the right process: before a fork, after it, in a namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from migrate.store.check import check_store
from migrate.store.store import init_store
from tests.migrate.store.places import Place, oci_place, s3_place, sftp_place
from tests.support.command import Wherry
from tests.support.wait import wait_until

COUNT = """
head -c 3000000 /dev/urandom >/tmp/ballast
n=0
while :; do n=$((n+1)); echo $n >/tmp/count; sleep 0.02; done
"""
KINDS: dict[str, Callable[[Path], AbstractContextManager[Place]]] = {
    "sftp": sftp_place,
    "s3": lambda _: s3_place(),
    "oci": oci_place,
}


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    with KINDS[request.param](tmp_path / "server") as place:
        for name, value in place.environment.items():
            monkeypatch.setenv(name, value)
        yield place.fresh()


def test_there_and_back(wherry: Wherry, place: Place) -> None:
    wherry.env |= {**place.environment, "WHERRY_STORE": place.url}
    with init_store(place.url) as store:
        wherry("do", "--detach", "--id", "job", "--", "sh", "-c", COUNT)
        try:
            wait_until(lambda: _count(wherry) > 2)
            first = wherry.json("snapshot", "--json", "--leave-running", "job")["snapshot"]
            seen = _count(wherry)
            second = wherry.json("snapshot", "--json", "job")["snapshot"]
            assert first["new_bytes"] > 3_000_000 and second["new_bytes"] < 500_000
            wherry("delete", "job")
            wherry("restore", "--detach", "--latest", "job")
            wait_until(lambda: _count(wherry) > seen + 1)
        finally:
            wherry("delete", "--force", "job", check=False)
        wherry("forget", "--keep-last", "1", "--prune")
        assert [one.snapshot_id.hex() for one in store.snapshots()] == [second["id"]]
        assert check_store(store, read_data=True, progress=lambda *_: None).damages == []


def _count(wherry: Wherry) -> int:
    return int(wherry.peek("job", "/tmp/count").strip() or 0)
