"""Cgroups: limits that the kernel really has, freezing, killing, names, and nothing left."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import ContainerError, SpecError
from runtime.kernel import bpf
from runtime.sandbox import launch
from runtime.sandbox.cgroups import Cgroups, freezer, manager
from runtime.sandbox.cgroups.devices import bpf_program, complete_rules, v1_lines
from runtime.sandbox.cgroups.hierarchy import find_hierarchies
from runtime.sandbox.cgroups.limits import plan_writes
from runtime.spec.model import (
    BlockIoLimits,
    CpuLimits,
    DeviceNumber,
    DeviceRule,
    MemoryLimits,
    Resources,
)
from tests.runtime.sandbox.box import Boxes, Json
from tests.support.wait import wait_until

ALL = frozenset(("memory", "cpu", "cpuset", "pids", "blkio", "hugetlb"))
ALL_V2 = frozenset(("memory", "cpu", "cpuset", "pids", "io", "hugetlb"))


def _limits(raw: Json) -> None:
    raw["linux"]["resources"].update(
        memory={"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
        cpu={"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0"},
        pids={"limit": 40},
    )


def _read(box_cgroups: Cgroups, v1: str, v2: str) -> str:
    controller = v1.split(".", 1)[0]
    directory = box_cgroups.controllers().get(controller)
    if directory is not None:
        return (directory / v1).read_text().strip()
    assert box_cgroups.v2 is not None
    return (box_cgroups.v2 / v2).read_text().strip()


def test_limits_are_set(boxes: Boxes) -> None:
    box = boxes.make("exec sleep 1000", _limits)
    box.create()
    cgroups = box.cgroups
    assert _read(cgroups, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert _read(cgroups, "memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)
    assert _read(cgroups, "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert _read(cgroups, "cpuset.cpus", "cpuset.cpus") == "0"
    assert _read(cgroups, "pids.max", "pids.max") == "40"
    for directory in cgroups.directories():
        assert (directory / "cgroup.procs").read_text() == f"{box.running.pid}\n"


def test_limit_on_processes_takes_hold(boxes: Boxes) -> None:
    def few(raw: Json) -> None:
        raw["linux"]["resources"]["pids"] = {"limit": 5}

    script = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; echo unreached"
    result = boxes.run(script, few)
    assert "unreached" not in result.output
    assert result.status != 0


def test_limit_on_memory_takes_hold(boxes: Boxes) -> None:
    result = boxes.run("head -c 200m /dev/zero | tail > /dev/null; echo $?", _limits)
    assert result.lines[-1] == "137"


def test_stats(boxes: Boxes) -> None:
    box = boxes.make("exec sleep 1000", _limits)
    box.create()
    box.start()
    stats = box.cgroups.stats()
    assert stats["memory"]["limit"] == 64 << 20
    assert 0 < stats["memory"]["usage"] < 64 << 20
    assert stats["pids"] == {"current": 1, "limit": 40}
    assert stats["cpu"]["usage_ns"] > 0


def test_freeze_and_thaw(boxes: Boxes) -> None:
    box = boxes.make("while :; do :; done")
    box.create()
    box.start()
    box.cgroups.freeze()
    assert box.cgroups.frozen
    stat = Path(f"/proc/{box.running.pid}/stat")
    used = stat.read_text().split()[13]
    time.sleep(0.05)
    assert stat.read_text().split()[13] == used
    box.cgroups.thaw()
    assert not box.cgroups.frozen
    wait_until(lambda: stat.read_text().split()[13] != used)


def test_kill_all_reaches_children_and_frozen_ones(boxes: Boxes) -> None:
    box = boxes.make("sleep 1000 & setsid sleep 1000 & wait")
    box.create()
    box.start()
    wait_until(lambda: len(box.cgroups.pids()) == 3)
    box.cgroups.freeze()
    box.cgroups.kill_all()
    assert box.wait().status == -9
    box.cgroups.destroy()
    assert not any(directory.exists() for directory in box.cgroups.directories())
    box.cgroups.destroy()
    box.cgroups.kill_all()
    assert not box.cgroups.frozen


def test_cgroups_that_the_container_made_go_too(boxes: Boxes) -> None:
    def writable(raw: Json) -> None:
        for entry in raw["mounts"]:
            if entry["type"] == "cgroup":
                entry["options"].remove("ro")

    box = boxes.make(
        "mkdir -p /sys/fs/cgroup/pids/a/b && echo 0 > /sys/fs/cgroup/pids/a/b/cgroup.procs;"
        "mkdir -p /sys/fs/cgroup/unified/x/y && sleep 1000",
        writable,
    )
    box.create()
    box.start()
    assert box.cgroups.v2 is not None
    inner = box.cgroups.v2 / "x/y"
    wait_until(inner.exists)
    assert box.running.pid in box.cgroups.pids()


def test_destroy_names_who_is_still_there(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    box = boxes.make("exec sleep 1000")
    box.create()
    monkeypatch.setattr(manager, "_REMOVE_TIMEOUT_S", 0.01)
    with pytest.raises(ContainerError, match=rf"still has processes \[{box.running.pid}\]"):
        box.cgroups.destroy()


def test_second_container_of_the_same_id_gets_another_name(boxes: Boxes) -> None:
    first, second = boxes.make("exec sleep 1000"), None
    first.create()
    second = boxes.make("exec sleep 1000")
    second.create()
    assert not set(first.cgroups.directories()) & set(second.cgroups.directories())


def test_cgroups_path(boxes: Boxes, scratch: Path) -> None:
    def path(raw: Json) -> None:
        raw["linux"]["cgroupsPath"] = f"/{scratch.name}/deep/box"

    box = boxes.make("exec sleep 1000", path)
    box.create()
    for directory in box.cgroups.directories():
        assert str(directory).endswith(f"/{scratch.name}/deep/box")
        assert directory.is_dir()
    again = Cgroups.from_json(box.cgroups.to_json())
    assert again == box.cgroups
    other = boxes.make("true", path)
    with pytest.raises(ContainerError, match="is it another container's"):
        other.create()
    box.tear_down()
    box.init = None
    assert not any(directory.parent.parent.exists() for directory in box.cgroups.directories())


def test_hierarchies_of_this_host() -> None:
    found = find_hierarchies()
    assert found
    for hierarchy in found:
        assert hierarchy.own_directory.is_dir()
        assert str(os.getpid()) in (hierarchy.own_directory / "cgroup.procs").read_text().split()


def test_limit_without_a_controller_is_refused() -> None:
    resources = Resources(pids=5)
    with pytest.raises(SpecError, match=r"linux.resources.pids.limit: no pids controller"):
        plan_writes(resources, ALL - {"pids"}, frozenset())


def test_kernel_memory_is_refused() -> None:
    with pytest.raises(SpecError, match=r"linux.resources.memory.kernel: has had no effect"):
        plan_writes(Resources(memory=MemoryLimits(kernel=1)), ALL, frozenset())


def test_v2_writes() -> None:
    resources = Resources(
        memory=MemoryLimits(limit=100, swap=150, reservation=50),
        cpu=CpuLimits(shares=1024, quota=5000, period=10000, cpus="0-1"),
        pids=-1,
        block_io=BlockIoLimits(weight=500, throttle_read_bps=(DeviceNumber(8, 0, 1000),)),
        hugepage_limits=(("2MB", 0),),
        unified={"memory.high": "90"},
    )
    writes = {write.file: write.value for write in plan_writes(resources, frozenset(), ALL_V2)}
    assert writes == {
        "memory.max": "100",
        "memory.swap.max": "50",
        "memory.low": "50",
        "cpu.weight": "39",
        "cpu.max": "5000 10000",
        "cpuset.cpus": "0-1",
        "pids.max": "max",
        "io.weight": "4950",
        "io.max": "8:0 rbps=1000",
        "hugetlb.2MB.max": "0",
        "memory.high": "90",
    }


@pytest.mark.parametrize(
    ("memory", "key"),
    [
        (MemoryLimits(swappiness=60), "swappiness"),
        (MemoryLimits(disable_oom_killer=True), "disableOOMKiller"),
        (MemoryLimits(kernel_tcp=1), "kernelTCP"),
    ],
)
def test_what_v2_cannot_do_is_refused(memory: MemoryLimits, key: str) -> None:
    with pytest.raises(SpecError, match=rf"linux.resources.memory.{key}: cgroup v2 has no such"):
        plan_writes(Resources(memory=memory), frozenset(), ALL_V2)


def test_v1_device_lines() -> None:
    rules = (
        DeviceRule(False),
        DeviceRule(True, "c", 10, 200, "rw"),
        DeviceRule(True, "a", 8, None, "r"),
    )
    assert list(v1_lines(rules)) == [
        ("devices.deny", "a"),
        ("devices.allow", "c 10:200 rw"),
        ("devices.allow", "b 8:* r"),
        ("devices.allow", "c 8:* r"),
    ]


@pytest.fixture
def v2_cgroup(scratch: Path) -> Iterator[Path]:
    tree = next((h for h in find_hierarchies() if h.version == 2), None)
    if tree is None:
        pytest.skip("feature cgroup-v2: no cgroup v2 tree is mounted")
    directory = tree.mount_point / f"wherry-test-{scratch.name}"
    directory.mkdir()
    yield directory
    wait_until(lambda: not (directory / "cgroup.procs").read_text())
    directory.rmdir()


def _opens(cgroup: Path, path: str, mode: str) -> bool:
    """Whether a process in *cgroup* can open a device."""
    script = f"echo $$ > {cgroup}/cgroup.procs; exec 3{mode}{path}"
    return subprocess.run(["sh", "-c", script], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("rules", "reads", "writes"),
    [
        ((), False, False),
        ((DeviceRule(True, "c", 1, 11, "r"),), True, False),
        ((DeviceRule(True, "c", 1, None, "w"),), False, True),
        ((DeviceRule(True),), True, True),
        ((DeviceRule(True), DeviceRule(False, "c", 1, 11, "w")), True, False),
        ((DeviceRule(True, "b", 1, 11),), False, False),
    ],
)
def test_device_program_of_cgroup_v2(
    v2_cgroup: Path, rules: tuple[DeviceRule, ...], reads: bool, writes: bool
) -> None:
    program = bpf.load_program(
        bpf.BPF_PROG_TYPE_CGROUP_DEVICE, bpf_program(complete_rules(rules)), "test"
    )
    fd = os.open(v2_cgroup, os.O_RDONLY)
    try:
        bpf.attach_to_cgroup(fd, program, bpf.BPF_CGROUP_DEVICE)
        assert _opens(v2_cgroup, "/dev/null", "<")
        assert _opens(v2_cgroup, "/dev/kmsg", "<") == reads
        assert _opens(v2_cgroup, "/dev/kmsg", ">") == writes
        bpf.detach_all(fd, bpf.BPF_CGROUP_DEVICE)
        assert _opens(v2_cgroup, "/dev/kmsg", "<")
    finally:
        os.close(fd)
        os.close(program)


def test_v2_alone(v2_cgroup: Path) -> None:
    """The code paths of a host without cgroup v1, as far as this one can show them."""
    inner = v2_cgroup / "inner"
    cgroups = Cgroups({}, inner, [], exclusive=True)
    cgroups.create()
    try:
        cgroups.apply(Resources(unified={"cgroup.max.depth": "3"}))
        assert (inner / "cgroup.max.depth").read_text() == "3\n"
        assert not _opens(inner, "/dev/kmsg", "<")
        assert _opens(inner, "/dev/zero", "<")
        cgroups.apply(Resources(devices=(DeviceRule(True),)))
        assert _opens(inner, "/dev/kmsg", "<")
        child = subprocess.Popen(["sleep", "1000"])
        cgroups.add(child.pid)
        assert cgroups.pids() == [child.pid]
        cgroups.freeze()
        assert cgroups.frozen
        cgroups.kill_all()
        assert child.wait() == -9
    finally:
        cgroups.destroy()
    assert not inner.exists()


@pytest.fixture
def only_v2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the cgroup v1 hierarchies, as on a host that has none."""
    found = [hierarchy for hierarchy in find_hierarchies() if hierarchy.version == 2]
    if not found:
        pytest.skip("feature cgroup-v2: no cgroup v2 tree is mounted")
    for module in (launch, manager):
        monkeypatch.setattr(module, "find_hierarchies", lambda: found)


@pytest.mark.usefixtures("only_v2")
def test_container_on_a_host_with_v2_alone(boxes: Boxes) -> None:
    def with_devices(raw: Json) -> None:
        raw["linux"]["devices"] = [{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]

    script = (
        "stat -f -c %T /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.procs | wc -l; "
        "cat /proc/self/cgroup | tail -1; (exec 3</dev/kmsg) || echo refused; "
        "head -c2 /dev/zero | wc -c"
    )
    box = boxes.make(script, with_devices)
    assert not box.cgroups.v1
    result = box.run()
    assert result.lines[0] == "cgroup2fs"
    assert int(result.lines[1]) >= 1
    assert result.lines[2] == "0::/"
    assert "refused" in result.lines
    assert result.lines[-1] == "2"
    box.cgroups.destroy()
    assert not any(directory.exists() for directory in box.cgroups.directories())


@pytest.mark.usefixtures("only_v2")
def test_limit_that_v2_has_no_controller_for(boxes: Boxes) -> None:
    available = next(h.controllers for h in find_hierarchies() if h.version == 2)
    if "pids" in available:
        box = boxes.make("cat /sys/fs/cgroup/pids.max", _limits)
        assert box.run().output == "40\n"
        return
    with pytest.raises(SpecError, match=r"linux\.resources\..*: no .* controller is mounted"):
        boxes.make("true", _limits)


def test_v1_freezer_where_there_is_no_v2(scratch: Path) -> None:
    hierarchy = next((h for h in find_hierarchies() if "freezer" in h.controllers), None)
    if hierarchy is None:
        pytest.skip("feature cgroup-v1-freezer: no freezer controller is mounted")
    directory = hierarchy.mount_point / f"wherry-test-{scratch.name}"
    cgroups = Cgroups({"freezer": directory}, None, [], exclusive=True)
    cgroups.create()
    child = subprocess.Popen(["sh", "-c", "read x; sleep 1000 & wait"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    try:
        cgroups.add(child.pid)  # before it has a child that would stay outside
        child.stdin.close()
        wait_until(lambda: len(cgroups.pids()) == 2)
        cgroups.freeze()
        assert cgroups.frozen
        assert freezer.is_frozen_v1(directory)
        cgroups.kill_all()
        assert child.wait() == -9
    finally:
        cgroups.destroy()
    assert not directory.exists()
