"""Snapshots that are read ahead of a job that keeps writing: what is left at the freeze is kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate.store.carrier import snapshot_container
from migrate.store.config import Operation
from migrate.store.store import Store, open_store
from runtime import kept_tracking
from runtime.container import Container
from runtime.engine import dump_contents, incremental
from runtime.engine.api import no_progress
from runtime.engine.incremental import Incremental
from runtime.engine.tracking import can_track
from runtime.engine.twins import Twins
from runtime.errors import ContainerError
from tests.support.command import Wherry
from tests.support.wait import wait_until
from tests.support.workloads import Stage, stage

pytestmark = [
    pytest.mark.skipif(bool(can_track()), reason=can_track() or "can"),
    pytest.mark.timeout(120),
]


@pytest.fixture
def store(wherry: Wherry, scratch: Path) -> Iterator[Store]:
    url = str(scratch / "store")
    wherry.env["WHERRY_STORE"] = url
    wherry("store", "init")
    with open_store(url, Operation.WRITE, lambda *_: pytest.fail("asked for a key")) as opened:
        yield opened


@pytest.fixture
def play(wherry: Wherry, scratch: Path) -> Iterator[Stage]:
    """A program that writes to two MiB all the time, and knows what it has written."""
    with stage(wherry, scratch, "precopy.c") as play:
        (play.control / "alone").touch()
        play.start("box")
        yield play


def save(wherry: Wherry, store: Store) -> dict[str, Any]:
    container = Container.load(wherry.root, "box")
    return snapshot_container(container, store, leave_running=True, progress=no_progress)


def check(wherry: Wherry, play: Stage, made: list[dict[str, Any]]) -> None:
    for number, one in enumerate(made):
        cid = f"there-{number}"
        wherry("restore", "--detach", one["snapshot"]["id"], cid)
        play.alive.append(cid)
        assert play.finish(cid) == "ok"
    assert wherry.json("store", "check", "--read-data", "--json")["ok"]
    assert play.finish("box") == "ok"


def test_much_is_left_and_a_fork_keeps_it(
    monkeypatch: pytest.MonkeyPatch, wherry: Wherry, store: Store, play: Stage, tmp_path: Path
) -> None:
    forks = tmp_path / "forks"
    make = Twins.make

    def counted(self: Twins, process: Any) -> int | None:
        with forks.open("a") as file:
            file.write("x")
        return make(self, process)

    monkeypatch.setattr(dump_contents, "WORTHWHILE_FOR_REST", 1)
    monkeypatch.setattr(incremental, "MAX_ROUNDS", 1)
    monkeypatch.setattr(Twins, "make", counted)
    made = [save(wherry, store) for _ in range(4)]
    assert all(one["ahead_bytes"] for one in made) and made[3]["tracking"]["since_last"]
    assert len(forks.read_text()) >= 3
    check(wherry, play, made)


def test_much_is_left_and_there_is_no_room_for_a_fork(
    monkeypatch: pytest.MonkeyPatch, wherry: Wherry, store: Store, play: Stage
) -> None:
    monkeypatch.setattr(dump_contents, "WORTHWHILE_FOR_REST", 1)
    monkeypatch.setattr(dump_contents, "have_room", lambda cgroups, size: False)
    made = [save(wherry, store) for _ in range(3)]
    assert all(one["ahead_bytes"] for one in made)
    check(wherry, play, made)


def test_rounds_that_never_settle(
    monkeypatch: pytest.MonkeyPatch, wherry: Wherry, store: Store, play: Stage
) -> None:
    """What cannot be relied on is read again during the freeze."""
    monkeypatch.setattr("runtime.engine.tracking.WriteTracking.settle", lambda self: False)
    made = [save(wherry, store) for _ in range(3)]
    check(wherry, play, made)


@pytest.mark.parametrize("moment", ["run", "part", "add"])
def test_a_worker_that_is_killed_leaves_a_running_job(
    moment: str, monkeypatch: pytest.MonkeyPatch, wherry: Wherry, store: Store, play: Stage
) -> None:
    before = save(wherry, store)
    monkeypatch.setattr(Incremental, moment, _killed_in(getattr(Incremental, moment)))
    with pytest.raises(ContainerError, match="killed"):
        save(wherry, store)
    monkeypatch.undo()
    wait_until(lambda: wherry.status("box") == "running", what="the job to run")
    after = save(wherry, store)
    assert after["tracking"]["why_not"] == "the last snapshot failed"
    check(wherry, play, [before, after])


def _killed_in(method: Callable[..., Any]) -> Callable[..., Any]:
    def killed(self: Incremental, *args: Any) -> Any:
        if method.__name__ == "run":  # the container is frozen by its cgroup, as in a round
            self._cgroups.freeze(timeout_s=10)
        os.kill(os.getpid(), signal.SIGKILL)

    return killed


def test_many_address_spaces(
    monkeypatch: pytest.MonkeyPatch, wherry: Wherry, store: Store, play: Stage
) -> None:
    """Only so many fit a message; of the others nothing is known the next time."""
    monkeypatch.setattr(kept_tracking, "MAX_SPACES", 0)
    made = [save(wherry, store) for _ in range(2)]
    assert made[1]["tracking"]["since_last"]
    assert made[1]["tracking"]["read_bytes"] > 4 << 20  # all of it again
    check(wherry, play, made)
