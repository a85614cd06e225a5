"""Snapshots of a job that goes on, one after the other: each is right, and reads what is new."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from runtime.engine.tracking import can_track
from tests.support.command import Wherry
from tests.support.wait import wait_until
from tests.support.workloads import Stage, stage

pytestmark = [
    pytest.mark.skipif(bool(can_track()), reason=can_track() or "can"),
    pytest.mark.timeout(120),
]


@pytest.fixture
def store(wherry: Wherry, scratch: Path) -> str:
    url = str(scratch / "store")
    wherry.env["WHERRY_STORE"] = url
    wherry("store", "init")
    return url


def snapshot(wherry: Wherry, *args: str) -> dict[str, Any]:
    made: dict[str, Any] = wherry.json("snapshot", "--json", "--leave-running", "box", *args)
    return made


def step(wherry: Wherry, play: Stage, number: int) -> None:
    """Let precopy.c change its memory."""
    pid = json.loads(wherry("state", "box").stdout)["pid"]
    (Path(f"/proc/{pid}/root{play.control}") / f"step-{number}").touch()
    upper = wherry.root / "box" / "overlay" / "upper" / play.control.relative_to("/")
    result = upper / "result"
    wait_until(lambda: (upper / f"stepped-{number}").exists() or result.exists(), 30, "a step")
    assert not result.exists(), result.read_text()


def tracked(wherry: Wherry) -> int:
    """How many mappings of the container's init are tracked."""
    pid = json.loads(wherry("state", "box").stdout)["pid"]
    return len(re.findall(r"VmFlags:.* uw .*", Path(f"/proc/{pid}/smaps").read_text()))


def check_restored(wherry: Wherry, play: Stage, made: dict[str, Any], cid: str) -> None:
    wherry("restore", "--detach", made["snapshot"]["id"], cid)
    play.alive.append(cid)
    assert play.finish(cid) == "ok"


def test_each_of_several_is_right(wherry: Wherry, store: str, scratch: Path) -> None:
    with stage(wherry, scratch, "precopy.c") as play:
        (play.control / "alone").touch()
        play.start("box")
        made = []
        for number in range(1, 6):
            made.append(snapshot(wherry))
            step(wherry, play, number)
        made.append(snapshot(wherry))
        first, *others = [one["tracking"] for one in made]
        assert not first["since_last"] and first["why_not"] == "no snapshot was taken before"
        assert all(one["since_last"] and not one["why_not"] for one in others), others
        assert all(one["read_bytes"] < first["read_bytes"] for one in others)
        assert all(one["ahead_bytes"] > 4 << 20 for one in made)
        assert tracked(wherry) > 0
        for number, one in enumerate(made):
            check_restored(wherry, play, one, f"there-{number}")
        assert wherry.json("store", "check", "--read-data", "--json")["ok"]
        assert play.finish("box") == "ok"


def test_memory_that_comes_to_be_shared_since_a_fork(
    wherry: Wherry, store: str, scratch: Path
) -> None:
    with stage(wherry, scratch, "precopy.c") as play:
        play.start("box")
        made = []
        for number in range(1, 5):
            made.append(snapshot(wherry))
            step(wherry, play, number)
        made.append(snapshot(wherry))
        assert made[0]["ahead_bytes"] and made[1]["tracking"]["since_last"]
        assert not made[1]["ahead_bytes"]
        assert "shared since a fork" in made[2]["tracking"]["why_not"]
        for number, one in enumerate(made):
            check_restored(wherry, play, one, f"there-{number}")
        assert play.finish("box") == "ok"


@pytest.mark.parametrize(
    "name",
    [
        "aio.c",
        "copy_on_write.c",
        "copy_on_write_shared.c",
        "big_memory.c",
        "memory.c",
        "share_memory.c",
        "special_memory.c",
        "threads.c",
    ],
)
def test_other_memory(name: str, wherry: Wherry, store: str, scratch: Path) -> None:
    with stage(wherry, scratch, name) as play:
        play.start("box")
        made = [snapshot(wherry) for _ in range(3)]
        for number, one in enumerate(made):
            check_restored(wherry, play, one, f"there-{number}")
        assert play.finish("box") == "ok"


@pytest.mark.parametrize("other", ["checkpoint", "checkpoint --leave-running", "snapshot"])
def test_other_ways_to_save_it_take_the_tracking_away(
    other: str, wherry: Wherry, store: str, scratch: Path
) -> None:
    command, *options = other.split()
    image = scratch / "image"
    with stage(wherry, scratch, "precopy.c") as play:
        play.start("box")
        snapshot(wherry)
        assert tracked(wherry) > 0
        place = ["--image-path", str(image)] if command == "checkpoint" else []
        wherry(command, *options, *place, "box")
        if not options:
            assert wherry.status("box") == "stopped"
            play.delete("box")
            source = ["--image-path", str(image)] if place else [f"{store}:latest"]
            wherry("restore", "--detach", *source, "there")
            play.alive.append("there")
            assert play.finish("there") == "ok"
            return
        assert tracked(wherry) == 0
        again = snapshot(wherry)
        assert again["tracking"]["why_not"] == "it was saved or migrated in another way since"
        step(wherry, play, 1)
        third = snapshot(wherry)
        assert third["tracking"]["since_last"]
        check_restored(wherry, play, again, "there")
        check_restored(wherry, play, third, "there-too")


def test_one_that_fails_leaves_nothing_armed(wherry: Wherry, store: str, scratch: Path) -> None:
    with stage(wherry, scratch, "precopy.c") as play:
        play.start("box")
        snapshot(wherry)
        step(wherry, play, 1)
        snapshots = Path(store) / "snapshots"
        snapshots.rename(Path(store) / "aside")
        snapshots.write_text("no directory")
        wherry.fails("snapshot", "--leave-running", "box")
        assert tracked(wherry) == 0
        snapshots.unlink()
        (Path(store) / "aside").rename(snapshots)
        step(wherry, play, 2)
        again = snapshot(wherry)
        assert again["tracking"]["why_not"] == "the last snapshot failed"
        check_restored(wherry, play, again, "there")
        assert play.finish("box") == "ok"


def test_another_store_and_a_store_that_was_pruned(
    wherry: Wherry, store: str, scratch: Path
) -> None:
    with stage(wherry, scratch, "precopy.c") as play:
        (play.control / "alone").touch()
        play.start("box")
        first = snapshot(wherry)
        second_store = str(scratch / "second")
        wherry("store", "init", "--store", second_store)
        other = snapshot(wherry, "--store", second_store)
        assert other["tracking"]["why_not"] == "the last snapshot went to another store"
        assert other["snapshot"]["plain_bytes"] > 4 << 20
        step(wherry, play, 1)
        assert snapshot(wherry, "--store", second_store)["tracking"]["since_last"]
        # What the next one could rely on is gone, and it stores all of it anew.
        for made in wherry.json("snapshots", "--json", "--store", second_store):
            wherry("image", "rm", f"{second_store}:{made['id']}")
        wherry("store", "prune", "--store", second_store, "--max-unused", "0")
        after = snapshot(wherry, "--store", second_store)
        assert after["tracking"]["since_last"]
        assert wherry.json("store", "check", "--read-data", "--json", "--store", second_store)["ok"]
        wherry("restore", "--detach", f"{second_store}:latest", "there")
        play.alive.append("there")
        assert play.finish("there") == "ok"
        check_restored(wherry, play, first, "there-too")
        shutil.rmtree(second_store)


def test_no_tracking_is_wanted(wherry: Wherry, store: str, scratch: Path) -> None:
    with stage(wherry, scratch, "precopy.c") as play:
        play.start("box")
        snapshot(wherry)
        made = snapshot(wherry, "--no-track")
        assert tracked(wherry) == 0
        assert "tracking" not in made and not made["ahead_bytes"]
        check_restored(wherry, play, made, "there")


def test_without_a_monitor(wherry: Wherry, store: str, scratch: Path) -> None:
    """Nobody holds the tracking, so each begins anew; the job does not notice."""
    with stage(wherry, scratch, "precopy.c") as play:
        play.start("box")
        snapshot(wherry)
        state = json.loads((wherry.root / "box" / "state.json").read_text())
        os.kill(state["monitor"]["pid"], 9)
        wait_until(lambda: tracked(wherry) == 0, what="the end of the tracking")
        again = snapshot(wherry)
        assert again["tracking"]["why_not"] == "the container has no monitor"
        check_restored(wherry, play, again, "there")
