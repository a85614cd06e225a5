"""Real containers into stores on real servers and out again, through the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

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
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with KINDS[request.param](tmp_path / "server") as place:
        yield place.fresh()


def _count(wherry: Wherry, cid: str) -> int:
    return int(wherry("exec", cid, "cat", "/tmp/count", check=False).stdout.strip() or 0)


def test_there_and_back(wherry: Wherry, place: Place) -> None:
    wherry.env |= {**place.environment, "WHERRY_STORE": place.url}
    wherry("store", "init")
    wherry("do", "--detach", "--id", "job", "--", "sh", "-c", COUNT)
    try:
        wait_until(lambda: _count(wherry, "job") > 2)
        first = wherry.json("snapshot", "--json", "--leave-running", "job")["snapshot"]
        seen = _count(wherry, "job")
        second = wherry.json("snapshot", "--json", "job")["snapshot"]
        assert first["new_bytes"] > 3_000_000 and second["new_bytes"] < 500_000
        wherry("delete", "job")
        wherry("restore", "--detach", "--latest", "job")
        wait_until(lambda: _count(wherry, "job") > seen + 1)
        wherry("forget", "--keep-last", "1", "--prune")
        assert [one["id"] for one in wherry.json("snapshots", "--json")] == [second["id"]]
        wherry("store", "check", "--read-data")
    finally:
        wherry("delete", "--force", "job", check=False)
