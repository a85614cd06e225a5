"""Rounds first, and what they leave when it runs over there: what writes faster than the line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.lab import Lab
from tests.support.wait import wait_until

MIB = 1 << 20
SLOW = ("--bandwidth", "20M", "--max-downtime", "20ms")

CHECKER = """
import hashlib, mmap, os, sys

def memory(mebibytes):
    return mmap.mmap(-1, mebibytes << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

still, restless = memory(24), memory(8)  # of the first, the program writes nothing any more
still[:] = os.urandom(len(still))
pieces = [hashlib.sha256(still[at:at + (1 << 20)]).digest() for at in range(0, len(still), 1 << 20)]
noise = os.urandom(len(restless) + 4096)
restless[:] = noise[:len(restless)]
os.makedirs("/hybrid", exist_ok=True)
n = step = 0
while True:
    at = step % len(pieces)
    same = hashlib.sha256(still[at << 20:(at + 1) << 20]).digest() == pieces[at]
    if not same or restless[:] != noise[n:n + len(restless)]:
        open("/hybrid/wrong", "w").write(f"step {step}, {same}")
        sys.exit(1)
    n = (n + 61) % 4096
    restless[:] = noise[n:n + len(restless)]
    step += 1
    with open("/hybrid/new", "w") as file:
        file.write(str(step))
    os.rename("/hybrid/new", "/hybrid/step")
"""


@pytest.fixture
def checker(lab: Lab) -> Iterator[Lab]:
    """A container that writes all the time and looks whether its memory is as it was."""
    lab.run("a", "wherry", "do", "--id", "job", "--detach", "--", "python3", "-c", CHECKER)
    wait_until(lambda: _step(lab, "a") > 3, 30, "memory filled")
    yield lab
    for host in ("a", "b"):
        for cid in lab.containers(host):
            lab.run(host, "wherry", "delete", "--force", cid, check=False)


def _step(lab: Lab, host: str) -> int:
    path = lab.path(host, "/run/wherry/job/overlay/upper/hybrid/step")
    return int(path.read_text()) if path.exists() else 0


def _went_on(lab: Lab, before: int) -> None:
    """It runs at b alone, and has seen all of its memory there, all of it right."""
    assert lab.containers("a") == {} and lab.containers("b") == {"job": "running"}
    since = _step(lab, "b")
    assert since >= before
    wait_until(lambda: _step(lab, "b") > since + 50, 30, "further steps")
    assert not lab.path("b", "/run/wherry/job/overlay/upper/hybrid/wrong").exists()


def _migrate(lab: Lab, *options: str) -> dict[str, Any]:
    report: dict[str, Any] = lab.json("a", "wherry", "migrate", "--json", *options, "job", "b")
    parts = ("freeze_ns", "transfer_ns", "restore_ns", "thaw_ns")
    assert 0 < sum(report[part] for part in parts) <= report["downtime_ns"]
    kinds = ("staged_bytes", "last_bytes", "later_bytes")
    assert report["memory_bytes"] == sum(report[kind] for kind in kinds)
    return report


@pytest.mark.parametrize(
    "options",
    [("--mode", "hybrid"), ("--rounds", "2", "--on-no-convergence", "postcopy")],
    ids=["asked-for", "no-convergence"],
)
def test_what_is_left_comes_later(checker: Lab, options: tuple[str, ...]) -> None:
    before = _step(checker, "a")
    report = _migrate(checker, *SLOW, *options)
    assert report["mode"] == "hybrid" and report["rounds_ended"] in ("not-shrinking", "limit")
    assert 2 <= len(report["rounds"]) <= 4
    # The rounds have brought what stays, the freeze state alone, and the rest came on demand.
    assert report["staged_bytes"] > 24 * MIB and report["later_bytes"] > 7 * MIB
    assert report["last_bytes"] < 3 * MIB and report["last_sent_bytes"] < 2 * MIB
    assert report["faults"] > 0 and report["complete_ns"] > 0.2e9
    _went_on(checker, before)


def test_nothing_comes_later_if_rounds_converge(lab: Lab) -> None:
    lab.run("a", "wherry", "do", "--id", "job", "--detach", "--", "sleep", "1000")
    try:
        report = _migrate(lab, "--on-no-convergence", "postcopy")
        assert report["mode"] == "precopy" and report["rounds_ended"] == "fits"
        assert report["later_bytes"] == 0
        assert lab.containers("a") == {} and lab.containers("b") == {"job": "running"}
    finally:
        for host in ("a", "b"):
            lab.run(host, "wherry", "delete", "--force", "job", check=False)
