"""Each kind of namespace, new and joined."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import ContainerError
from tests.runtime.sandbox.box import Boxes, Json

KINDS = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "mount": "mnt"}


def _namespace(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{kind}")


@pytest.mark.parametrize("kind", ["pid", "net", "ipc", "uts", "mnt", "cgroup"])
def test_new_namespace(boxes: Boxes, kind: str) -> None:
    result = boxes.run(f"readlink /proc/self/ns/{kind}")
    assert result.status == 0
    assert result.output.startswith(f"{kind}:[")
    assert result.output.strip() != _namespace(kind)


def test_shares_what_is_not_listed(boxes: Boxes) -> None:
    def share_net_and_ipc(raw: Json) -> None:
        raw["linux"]["namespaces"] = [{"type": kind} for kind in ("pid", "mount", "uts")]

    result = boxes.run("readlink /proc/self/ns/net /proc/self/ns/ipc", share_net_and_ipc)
    assert result.lines == [_namespace("net"), _namespace("ipc")]


def test_the_program_is_pid_1_and_alone(boxes: Boxes) -> None:
    result = boxes.run("echo $$; ls -d /proc/[0-9]*")
    assert result.lines[0] == "1"
    assert result.lines[1] == "/proc/1"
    assert len(result.lines) <= 3  # ls itself


def test_loopback_is_up(boxes: Boxes) -> None:
    result = boxes.run("cat /sys/class/net/lo/operstate /sys/class/net/lo/flags; ls /sys/class/net")
    assert int(result.lines[1], 16) & 1
    assert "lo" in result.lines


def test_host_name_and_domain_name(boxes: Boxes) -> None:
    def named(raw: Json) -> None:
        raw["hostname"] = "freight"
        raw["domainname"] = "river.example"

    result = boxes.run("uname -n; cat /proc/sys/kernel/domainname", named)
    assert result.lines == ["freight", "river.example"]
    assert os.uname().nodename != "freight"


@pytest.mark.parametrize("oci_kind", ["network", "ipc", "uts", "pid", "cgroup"])
def test_joins_by_path(boxes: Boxes, oci_kind: str) -> None:
    kind = KINDS.get(oci_kind, oci_kind)
    first = boxes.make("exec sleep 1000")
    first.create()
    first.start()
    path = f"/proc/{first.running.pid}/ns/{kind}"
    wanted = os.readlink(path)

    def join(raw: Json) -> None:
        for namespace in raw["linux"]["namespaces"]:
            if namespace["type"] == oci_kind:
                namespace["path"] = path
        if oci_kind == "uts":
            del raw["hostname"]

    second = boxes.make(f"readlink /proc/self/ns/{kind}; echo $$", join)
    result = second.run()
    assert result.lines[0] == wanted
    if oci_kind == "pid":
        assert int(result.lines[1]) > 1
        assert os.readlink("/proc/self/ns/pid_for_children") == _namespace("pid")


def test_joining_the_wrong_kind_is_refused(boxes: Boxes) -> None:
    def join(raw: Json) -> None:
        for namespace in raw["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = "/proc/self/ns/uts"

    with pytest.raises(ContainerError, match=r"linux.namespaces\[net\].path.* no net namespace"):
        boxes.make("true", join).create()


def test_joined_mount_namespace_is_left_as_it_is(boxes: Boxes) -> None:
    first = boxes.make("touch /of-the-first; sleep 1000")
    first.create()
    first.start()
    pid = first.running.pid
    mounts = Path(f"/proc/{pid}/mountinfo").read_text()

    def join(raw: Json) -> None:
        raw["linux"]["namespaces"] = [
            {"type": "mount", "path": f"/proc/{pid}/ns/mnt"},
            {"type": "pid", "path": f"/proc/{pid}/ns/pid"},
        ]
        raw["mounts"] = []
        raw["linux"]["maskedPaths"] = []
        raw["linux"]["readonlyPaths"] = []
        del raw["hostname"]

    box = boxes.make("readlink /proc/self/ns/mnt", join, overlay=False)
    assert box.run().lines == [os.readlink(f"/proc/{pid}/ns/mnt")]
    assert Path(f"/proc/{pid}/mountinfo").read_text() == mounts


def _clocks(offset: int) -> Any:
    def with_time(raw: Json) -> None:
        raw["linux"]["namespaces"].append({"type": "time"})
        raw["linux"]["timeOffsets"] = {"monotonic": {"secs": offset}, "boottime": {"secs": offset}}

    return with_time


@pytest.mark.parametrize("offset", [100_000, -3])
def test_time_namespace_with_offsets(boxes: Boxes, offset: int) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    result = boxes.run("cut -d' ' -f1 /proc/uptime; cat /proc/self/timens_offsets", _clocks(offset))
    inside = float(result.lines[0])
    after = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before + offset - 1 <= inside <= after + offset + 1
    assert result.lines[1].split() == ["monotonic", str(offset), "0"]
    for name in ("time", "time_for_children"):
        assert os.readlink(f"/proc/self/ns/{name}") == _namespace("time")


def _mapped(raw: Json) -> None:
    raw["linux"]["namespaces"].append({"type": "user"})
    mapping = [{"containerID": 0, "hostID": 100_000, "size": 65536}]
    raw["linux"]["uidMappings"] = raw["linux"]["gidMappings"] = mapping


def _mapped_admin(raw: Json) -> None:
    _mapped(raw)
    for granted in raw["process"]["capabilities"].values():
        granted.append("CAP_SYS_ADMIN")


def test_user_namespace(boxes: Boxes) -> None:
    box = boxes.make("exec sleep 1000", _mapped)
    box.create()
    box.start()
    status = Path(f"/proc/{box.running.pid}/status").read_text()
    assert "Uid:\t100000\t100000\t100000\t100000" in status
    assert os.readlink(f"/proc/{box.running.pid}/ns/user") != _namespace("user")


def test_root_of_a_user_namespace_works_in_the_container(boxes: Boxes) -> None:
    result = boxes.run(
        "id -u && cat /proc/self/uid_map && echo x > /dev/null && mount -t tmpfs t /mnt"
        " && hostname changed && hostname && stat -c '%t:%T' /dev/null /dev/tty",
        _mapped_admin,
    )
    assert result.status == 0, result.output
    assert result.lines[0] == "0"
    assert result.lines[1].split() == ["0", "100000", "65536"]
    assert result.lines[2] == "changed"
    assert result.lines[3:] == ["1:3", "5:0"]


def test_user_inside_of_a_user_namespace(boxes: Boxes) -> None:
    def user(raw: Json) -> None:
        _mapped(raw)
        raw["process"]["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [7, 8]}

    result = boxes.run("id -u; id -g; id -G", user)
    assert result.lines == ["1000", "1001", "1001 7 8"]


def test_joins_a_user_namespace(boxes: Boxes) -> None:
    first = boxes.make("exec sleep 1000", _mapped)
    first.create()
    first.start()
    path = f"/proc/{first.running.pid}/ns/user"

    def join(raw: Json) -> None:
        raw["linux"]["namespaces"].append({"type": "user", "path": path})

    result = boxes.run("id -u; cat /proc/self/uid_map; readlink /proc/self/ns/user; echo $$", join)
    assert result.lines[0] == "0"
    assert result.lines[1].split() == ["0", "100000", "65536"]
    assert result.lines[2] == os.readlink(path)
    assert result.lines[3] == "1"
