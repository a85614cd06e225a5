"""What stands in the way of a container is told beforehand, all of it, and nothing is touched."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from migrate.cli.cpu import level_of
from migrate.hello import own_hello
from migrate.messages import OfferContainer, Outlet
from migrate.preflight import ACCEPTABLE, obstacles, unlimited
from runtime.spec import do_spec
from tests.support.lab import Lab

OFFER = OfferContainer(
    token="0" * 32,
    container_id="moved",
    source_id="here",
    bundle="",
    spec=do_spec(["sleep", "1000"]),
    memory_bytes=1 << 20,
)


def _reasons(root: Path, **changes: Any) -> set[str]:
    offer = dataclasses.replace(OFFER, **changes)
    found = obstacles(root, offer, own_hello(), asked_ns=time.time_ns())
    return {refusal.reason for refusal in found}


def test_nothing_stands_in_the_way(tmp_path: Path) -> None:
    # Here the offer was written before we asked.
    assert _reasons(tmp_path, time_ns=time.time_ns()) == set()


def test_everything_at_once(tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    spec = {
        **OFFER.spec,
        "root": {"path": str(tmp_path / "nowhere")},
        "mounts": [
            *OFFER.spec["mounts"],
            {"destination": "/x", "source": str(tmp_path / "not"), "options": ["bind"]},
        ],
        "linux": {
            **OFFER.spec["linux"],
            "devices": [{"path": "/dev/odd", "type": "c", "major": 511, "minor": 1048575}],
        },
    }
    changes = {
        "spec": spec,
        "memory_bytes": 1 << 50,
        "disk_bytes": 1 << 60,
        "time_ns": time.time_ns() - 60 * 10**9,
        "outlets": (Outlet("veth[eth0]", "no-bridge"),),
    }
    found = _reasons(tmp_path, **changes)
    always = {"container-exists", "no-rootfs", "no-mount-source", "device", "no-network"}
    assert found == always | {"memory", "disk", "clock"}
    assert _reasons(tmp_path, **changes, accepted=ACCEPTABLE) == always


def test_another_processor(tmp_path: Path) -> None:
    own = own_hello()
    other = dataclasses.replace(
        own, cpu_flags=(*own.cpu_flags, "avx1024"), signal_frame=1 << 20, vdso=b"other"
    )
    found = obstacles(tmp_path, OFFER, other, asked_ns=time.time_ns())
    assert {refusal.reason for refusal in found} == {"cpu-features", "xstate", "vdso"}


def test_limits_that_nobody_would_set() -> None:
    spec = {"linux": {"resources": {"memory": {"limit": 1}, "blockIO": {"weight": 9}, "cpu": {}}}}
    assert unlimited(spec, {"memory", "io"}) == []
    assert unlimited(spec, {"cpu", "pids"}) == ["memory", "blockIO"]


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ({"sse2"}, "x86-64-v1"),
        ({"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3", "avx2"}, "x86-64-v2"),
    ],
)
def test_levels(flags: set[str], level: str) -> None:
    assert level_of(flags) == level


def test_dry_run(lab: Lab) -> None:
    sleeper = ("wherry", "do", "--detach", "--id", "sleeper", "--", "sleep", "1000")
    lab.run("a", *sleeper)
    lab.run("b", *sleeper)
    ask = ("wherry", "migrate", "--dry-run", "--json", "sleeper", "b")
    try:
        done = lab.run("a", *ask, check=False)
        assert done.returncode == 30
        assert '"container-exists"' in done.stdout
        lab.run("b", "wherry", "delete", "--force", "sleeper")
        assert lab.json("a", *ask) == {"ready": True, "refusals": []}
        said = lab.run("a", "wherry", "migrate", "--dry-run", "sleeper", "b").stdout
        assert said == "sleeper: nothing stands in the way on b\n"
        assert lab.containers("a") == {"sleeper": "running"} and lab.containers("b") == {}
    finally:
        for host in ("a", "b"):
            lab.run(host, "wherry", "delete", "--force", "sleeper", check=False)


def test_cpu_baseline(lab: Lab) -> None:
    found = lab.json("a", "wherry", "cpu", "baseline", "--json", "b")
    assert found["baseline"] == sorted(own_hello().cpu_flags)
    assert found["beyond"]["b"] == []
    assert found["level"] in lab.run("a", "wherry", "cpu", "baseline", "b").stdout
