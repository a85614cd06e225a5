"""Commands at once, and commands that are killed: whatever is left can be deleted."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bundles import make_bundle
from tests.support.command import Wherry
from tests.support.wait import wait_until


@pytest.fixture
def bundle(scratch: Path) -> Path:
    return make_bundle(scratch / "b", "exec sleep 1000")


def run_together(wherry: Wherry, *calls: tuple[str | Path, ...]) -> list[int]:
    """Start calls at once; their exit statuses."""
    quiet = open(os.devnull, "wb")  # noqa: SIM115
    with quiet:
        processes = [wherry.popen(*call, stdout=quiet, stderr=quiet) for call in calls]
        return [process.wait(60) for process in processes]


def test_of_creations_under_one_id_one_wins(wherry: Wherry, bundle: Path) -> None:
    for _ in range(3):
        statuses = run_together(wherry, *[("create", "--bundle", bundle, "--overlay", "web")] * 4)
        assert sorted(statuses) == [0, 23, 23, 23]
        assert wherry.status("web") == "created"
        wherry("delete", "--force", "web")


def test_of_starts_one_wins(wherry: Wherry, bundle: Path) -> None:
    for _ in range(3):
        wherry("create", "--bundle", bundle, "--overlay", "web")
        assert sorted(run_together(wherry, *[("start", "web")] * 4)) == [0, 24, 24, 24]
        assert wherry.status("web") == "running"
        wherry("delete", "--force", "web")


def test_deletions_at_once_all_succeed_or_find_nothing(wherry: Wherry, bundle: Path) -> None:
    for _ in range(3):
        wherry("run", "--detach", "--bundle", bundle, "--overlay", "web")
        assert set(run_together(wherry, *[("delete", "--force", "web")] * 4)) == {0}
        assert list(wherry.root.iterdir()) == []


def test_pause_and_resume_at_once_end_in_a_true_status(wherry: Wherry, bundle: Path) -> None:
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "web")
    for _ in range(3):
        statuses = run_together(wherry, *[("pause", "web"), ("resume", "web")] * 3)
        assert set(statuses) <= {0, 24}
        record = json.loads((wherry.root / "web" / "state.json").read_text())
        assert record["status"] == wherry.status("web")
    wherry("delete", "--force", "web")


def test_create_and_delete_at_once_leave_all_or_nothing(wherry: Wherry, bundle: Path) -> None:
    for _ in range(4):
        run_together(
            wherry,
            ("create", "--bundle", bundle, "--overlay", "web"),
            ("delete", "--force", "web"),
            ("list",),
        )
        assert wherry.status("web") in ("created", "absent")
        wherry("delete", "--force", "web")
        assert list(wherry.root.iterdir()) == []


def test_reading_while_others_change_never_fails(wherry: Wherry, bundle: Path) -> None:
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "web")
    changing = wherry.popen("exec", "web", "sh", "-c", "for i in 1 2 3 4 5; do sleep 0.05; done")
    while changing.poll() is None:
        run_together(wherry, ("pause", "web"), ("resume", "web"))
        assert wherry.status("web") in ("running", "paused")
        assert [entry["id"] for entry in wherry.json("list", "--json")] == ["web"]
        if wherry.status("web") == "paused":
            wherry("resume", "web")
    wherry("delete", "--force", "web")


def _kill_after(wherry: Wherry, delay_s: float, *call: str | Path) -> None:
    """Start a call and kill it after a while, however far it is."""
    with open(os.devnull, "wb") as quiet:
        process = wherry.popen(*call, stdout=quiet, stderr=quiet)
        deadline = time.monotonic() + delay_s
        wait_until(lambda: time.monotonic() >= deadline or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
        process.wait()


def _nothing_stays(wherry: Wherry) -> None:
    """Whatever was left can be listed, and deleted with --force."""
    for entry in wherry.json("list", "--json"):
        assert entry["status"] in (
            "creating", "created", "running", "paused", "stopped", "damaged",
        )  # fmt: skip
    wherry("delete", "--force", "web")
    assert list(wherry.root.iterdir()) == []


CALLS: dict[str, Callable[[Path], tuple[str | Path, ...]]] = {
    "create": lambda bundle: ("create", "--bundle", bundle, "--overlay", "web"),
    "run": lambda bundle: ("run", "--bundle", bundle, "--overlay", "web"),
    "do": lambda _: ("do", "--id", "web", "--", "sleep", "1000"),
}


@pytest.mark.parametrize("verb", sorted(CALLS))
def test_a_creator_killed_at_any_moment_leaves_a_deletable_container(
    wherry: Wherry, bundle: Path, verb: str
) -> None:
    dice = random.Random(verb)
    for _ in range(8):
        _kill_after(wherry, dice.uniform(0.03, 0.2), *CALLS[verb](bundle))
        _nothing_stays(wherry)


@pytest.mark.parametrize("verb", ["start", "pause", "delete"])
def test_a_command_killed_at_any_moment_can_be_repeated(
    wherry: Wherry, bundle: Path, verb: str
) -> None:
    dice = random.Random(verb)
    for _ in range(6):
        wherry("create", "--bundle", bundle, "--overlay", "web")
        if verb != "start":
            wherry("start", "web")
        call = (verb, "--force", "web") if verb == "delete" else (verb, "web")
        _kill_after(wherry, dice.uniform(0.04, 0.15), *call)
        status = wherry.status("web")
        if verb == "start":
            assert status in ("created", "running")
            if status == "created":
                wherry("start", "web")
            assert wherry.status("web") == "running"
        elif verb == "pause":
            assert status in ("running", "paused")
            if status == "paused":
                wherry("resume", "web")
            assert wherry("exec", "web", "true").returncode == 0
        _nothing_stays(wherry)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_creator_leaves_nothing(wherry: Wherry, bundle: Path, signum: int) -> None:
    dice = random.Random(signum)
    for _ in range(8):
        with (wherry.scratch / "err").open("wb") as err:
            process = wherry.popen("create", "--bundle", bundle, "--overlay", "web", stderr=err)
            deadline = time.monotonic() + dice.uniform(0.05, 0.15)
            wait_until(lambda: time.monotonic() >= deadline)  # noqa: B023
            process.send_signal(signum)
            status = process.wait(30)
        said = (wherry.scratch / "err").read_text()
        # Before the handler is in place, the interpreter itself ends by the signal.
        assert status in (0, 128 + signum, -signum), said
        if status == 128 + signum:
            assert said == ""
            assert wherry.status("web") == "absent"
        _nothing_stays(wherry)
