"""Further processes in a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.errors import ContainerError, SpecError, WrongStatusError
from tests.runtime.sandbox.box import Box, Boxes, Json


def _running(boxes: Boxes, change: object = None) -> Box:
    box = boxes.make("exec sleep 1000", change)  # type: ignore[arg-type]
    box.create()
    box.start()
    return box


def test_joins_everything(boxes: Boxes) -> None:
    box = _running(boxes)
    names = ("pid", "net", "ipc", "uts", "mnt", "cgroup", "user", "time")
    wanted = [os.readlink(f"/proc/{box.running.pid}/ns/{name}") for name in names]
    result = box.execute(
        "cd /proc/self/ns; for n in pid net ipc uts mnt cgroup user time; do readlink $n; done"
    )
    assert result.lines == wanted


def test_is_in_the_cgroups_and_sees_the_container(boxes: Boxes) -> None:
    box = _running(boxes)
    result = box.execute("cat /proc/self/cgroup; hostname; cat /proc/1/comm; echo $PPID")
    assert all(line.endswith(":/") for line in result.lines[:-3])
    assert result.lines[-3:] == ["wherry", "sleep", "0"]


def test_our_own_namespaces_are_untouched(boxes: Boxes) -> None:
    before = {path.name: os.readlink(path) for path in Path("/proc/self/ns").iterdir()}
    box = _running(boxes)
    box.execute("true")
    assert {path.name: os.readlink(path) for path in Path("/proc/self/ns").iterdir()} == before


def test_process_settings(boxes: Boxes) -> None:
    box = _running(boxes)
    result = box.execute(
        "id -u; id -G; pwd; echo $A; ulimit -n; grep NoNewPrivs /proc/self/status; umask",
        user={"uid": 1000, "gid": 1000, "additionalGids": [5], "umask": 0o77},
        cwd="/usr",
        env=["A=b", "PATH=/usr/bin"],
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 77}],
        noNewPrivileges=True,
    )
    assert result.lines == ["1000", "1000 5", "/usr", "b", "77", "NoNewPrivs:\t1", "0077"]


def test_capabilities_are_the_containers_unless_given(boxes: Boxes) -> None:
    box = _running(boxes)
    bounding = next(
        line
        for line in Path(f"/proc/{box.running.pid}/status").read_text().splitlines()
        if line.startswith("CapBnd")
    )
    assert bounding in box.execute("cat /proc/self/status").output
    none = box.execute("cat /proc/self/status", capabilities={})
    assert "CapBnd:\t0000000000000000" in none.output


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["no-such-program"], "exec-not-found"),
        (["/etc/passwd"], "exec-permission"),
        (["/proc/self/exe"], "exec-permission"),
    ],
)
def test_program_that_cannot_be_executed(boxes: Boxes, args: list[str], reason: str) -> None:
    box = _running(boxes)
    with pytest.raises(ContainerError, match=args[0]) as caught:
        box.execute("", args=args)
    assert caught.value.reason == reason
    assert box.cgroups.pids() == [box.running.pid]


def test_missing_directory(boxes: Boxes) -> None:
    box = _running(boxes)
    with pytest.raises(ContainerError, match=r"/no/such \(process.cwd\): no such file"):
        box.execute("true", cwd="/no/such")


def test_directory_outside_of_the_container(boxes: Boxes) -> None:
    box = _running(boxes)
    with pytest.raises(ContainerError):
        box.execute("true", cwd="/proc/self/fd/3/../..")


def test_unknown_key_is_refused(boxes: Boxes) -> None:
    box = _running(boxes)
    with pytest.raises(SpecError, match=r"process\.colour: unknown key"):
        box.execute("true", colour="red")


def test_frozen_and_ended_containers(boxes: Boxes) -> None:
    box = _running(boxes)
    box.cgroups.freeze()
    with pytest.raises(WrongStatusError, match="paused"):
        box.execute("true")
    box.cgroups.thaw()
    box.cgroups.kill_all()
    box.wait()
    with pytest.raises(WrongStatusError, match="ended"):
        box.execute("true")


def test_in_a_user_namespace(boxes: Boxes) -> None:
    def mapped(raw: Json) -> None:
        raw["linux"]["namespaces"].append({"type": "user"})
        mapping = [{"containerID": 0, "hostID": 100_000, "size": 65536}]
        raw["linux"]["uidMappings"] = raw["linux"]["gidMappings"] = mapping

    box = _running(boxes, mapped)
    result = box.execute("id -u; cat /proc/self/uid_map; echo x > /dev/null && echo fine")
    assert result.lines[0] == "0"
    assert result.lines[1].split() == ["0", "100000", "65536"]
    assert result.lines[2] == "fine"


def test_in_a_time_namespace(boxes: Boxes) -> None:
    def shifted(raw: Json) -> None:
        raw["linux"]["namespaces"].append({"type": "time"})
        raw["linux"]["timeOffsets"] = {"boottime": {"secs": 1_000_000}}

    box = _running(boxes, shifted)
    assert float(box.execute("cut -d' ' -f1 /proc/uptime").output) > 1_000_000


def test_in_a_created_container(boxes: Boxes) -> None:
    box = boxes.make("exit 3")
    box.create()
    assert box.execute("hostname").output == "wherry\n"
    box.start()
    assert box.wait().status == 3
