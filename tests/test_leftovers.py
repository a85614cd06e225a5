"""The search for leftovers finds what it should: otherwise every other test proves less."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from runtime.kernel.loop import attach_loop
from runtime.kernel.probes.cgroups import cgroup_mounts
from tests.support import leftovers
from tests.support.wait import wait_until

NO_CGROUPS: Mapping[Path, int] = {}


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="w-left-") as name:
        yield Path(name)


def _kinds(base: Path, before: set[int], seen: Mapping[Path, int] = NO_CGROUPS) -> set[str]:
    return {left.kind for left in leftovers.left_of_test(base, seen, before)}


def test_nothing_left_is_an_empty_answer(base: Path) -> None:
    assert leftovers.left_of_test(base, {}, leftovers.our_descendants()) == []


def test_finds_and_kills_a_child(base: Path) -> None:
    before = leftovers.our_descendants()
    child = subprocess.Popen(["sleep", "1000"])
    assert _kinds(base, before) == {"process"}
    leftovers.destroy(base, {}, before, dict(os.environ))
    assert leftovers.left_of_test(base, {}, before) == []
    child.poll()


def test_finds_and_kills_a_daemon_by_its_environment(base: Path) -> None:
    before = leftovers.our_descendants()
    # The shell ends at once, so that the sleeper belongs to nobody here.
    subprocess.run(
        ["setsid", "sh", "-c", "sleep 1000 & "],
        env={**os.environ, "SOME_ROOT": str(base)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: len(leftovers.processes_of(base)) == 1, what="the sleeper")
    assert _kinds(base, before) == {"process"}
    leftovers.destroy(base, {}, before, dict(os.environ))
    wait_until(lambda: not leftovers.processes_of(base), what="its end")


def test_finds_and_removes_a_mount(base: Path) -> None:
    before = leftovers.our_descendants()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(base)], check=True)
    assert _kinds(base, before) == {"mount"}
    leftovers.destroy(base, {}, before, dict(os.environ))
    assert leftovers.left_of_test(base, {}, before) == []


@pytest.mark.needs_feature("own-ext4")
def test_finds_a_loop_device(base: Path) -> None:
    before = leftovers.our_descendants()
    with (base / "file").open("wb+") as file:
        file.truncate(1 << 20)
        _, held = attach_loop(file.fileno())
    assert _kinds(base, before) == {"loop device"}
    os.close(held)
    wait_until(lambda: not leftovers.left_of_test(base, {}, before), what="its end")


@pytest.mark.needs_feature("cgroup-kill")
def test_finds_and_removes_a_cgroup(base: Path) -> None:
    before = leftovers.our_descendants()
    root = next(mount.path for mount in cgroup_mounts() if mount.version == 2)
    group = root / f"box-{os.getpid()}"
    group.mkdir()
    child = subprocess.Popen(["sleep", "1000"])
    (group / "cgroup.procs").write_text(str(child.pid))
    assert _kinds(base, before, {group: group.stat().st_ino}) == {"process", "cgroup"}
    leftovers.destroy(base, {group: group.stat().st_ino}, before, dict(os.environ))
    assert not group.exists()
    child.poll()
