"""Configurations in the shape that container managers write them, run for real."""

from __future__ import annotations

import os
from pathlib import Path

from tests.runtime.sandbox.box import Boxes, Json

_CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"]


def _engine_style(raw: Json, shared: Path, cgroup: str) -> None:
    """As podman and Docker write it, with every key they write."""
    files = {}
    for name in ("hosts", "resolv.conf", "hostname"):
        files[name] = shared / name
        files[name].write_text(f"{name} of the engine\n")
    (shared / "shm").mkdir()
    raw["ociVersion"] = "1.0.2-dev"
    raw["process"].update(
        terminal=False,
        consoleSize={"height": 0, "width": 0},
        user={"uid": 0, "gid": 0, "additionalGids": [0, 1, 2], "umask": 18},
        capabilities={
            "bounding": _CAPABILITIES,
            "effective": _CAPABILITIES,
            "inheritable": [],
            "permitted": _CAPABILITIES,
            "ambient": [],
        },
        rlimits=[{"type": "RLIMIT_NPROC", "hard": 4096, "soft": 4096}],
        apparmorProfile="",
        selinuxLabel="",
        oomScoreAdj=200,
    )
    raw["mounts"] = [
        {
            "destination": "/proc",
            "type": "proc",
            "source": "proc",
            "options": ["nosuid", "noexec", "nodev"],
        },
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": [
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        },
        {
            "destination": "/dev/mqueue",
            "type": "mqueue",
            "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"],
        },
        {
            "destination": "/dev/shm",
            "type": "bind",
            "source": str(shared / "shm"),
            "options": ["bind", "rprivate", "nosuid", "noexec", "nodev"],
        },
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["rprivate", "nosuid", "noexec", "nodev", "relatime", "ro"],
        },
        {
            "destination": "/run",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["rw", "rprivate", "nosuid", "nodev", "tmpcopyup"],
        },
        *(
            {
                "destination": f"/etc/{name}",
                "type": "bind",
                "source": str(path),
                "options": ["bind", "rprivate"],
            }
            for name, path in files.items()
        ),
    ]
    raw["annotations"] = {"org.opencontainers.image.stopSignal": "15"}
    raw["hooks"] = {}
    linux = raw["linux"]
    linux.update(
        sysctl={"net.ipv4.ping_group_range": "0 0"},
        cgroupsPath=cgroup,
        mountLabel="",
        devices=[],
        uidMappings=[],
        gidMappings=[],
        rootfsPropagation="",
    )
    linux["resources"].update(
        memory={"limit": 512 << 20, "swap": 512 << 20, "checkBeforeUpdate": False},
        cpu={"shares": 1024, "quota": 0, "period": 0, "cpus": "", "mems": ""},
        pids={"limit": 2048},
        blockIO={"weight": 0},
        network={},
        hugepageLimits=[],
    )


def test_as_an_engine_writes_it(boxes: Boxes, scratch: Path) -> None:
    shared = scratch / "engine"
    shared.mkdir()
    cgroup = f"/{scratch.name}/box"
    box = boxes.make(
        "cat /etc/hosts /etc/hostname; touch /dev/shm/seen; id -G; umask; "
        "cat /proc/sys/net/ipv4/ping_group_range /proc/self/oom_score_adj; "
        "grep processes /proc/self/limits",
        lambda raw: _engine_style(raw, shared, cgroup),
    )
    result = box.run()
    assert result.status == 0, result.output
    assert result.lines[:4] == ["hosts of the engine", "hostname of the engine", "0 1 2", "0022"]
    assert result.lines[4].split() == ["0", "0"]
    assert result.lines[5] == "200"
    assert "4096" in result.lines[6]
    assert (shared / "shm/seen").exists()
    assert all(str(path).endswith(cgroup) for path in box.cgroups.directories())


def test_pod_of_two(boxes: Boxes, scratch: Path) -> None:
    """As containerd writes it for Kubernetes: a sandbox, and a container in its namespaces."""

    def sandbox(raw: Json) -> None:
        raw["process"]["user"] = {"uid": 65535, "gid": 65535}
        raw["process"]["oomScoreAdj"] = 500
        raw["root"]["readonly"] = True
        raw["hostname"] = "pod"
        raw["linux"]["cgroupsPath"] = f"/{scratch.name}/pod/sandbox"
        raw["linux"]["resources"]["cpu"] = {"shares": 2}

    pause = boxes.make("exec sleep 1000", sandbox)
    pause.create()
    pause.start()
    pid = pause.running.pid

    def container(raw: Json) -> None:
        del raw["hostname"]
        raw["linux"]["cgroupsPath"] = f"/{scratch.name}/pod/app"
        raw["linux"]["namespaces"] = [
            {"type": "pid"},
            {"type": "mount"},
            {"type": "cgroup"},
            *(
                {"type": kind, "path": f"/proc/{pid}/ns/{name}"}
                for kind, name in (("ipc", "ipc"), ("uts", "uts"), ("network", "net"))
            ),
        ]
        raw["mounts"] = [entry for entry in raw["mounts"] if entry["type"] != "sysfs"] + [
            {
                "destination": "/sys",
                "type": "sysfs",
                "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"],
            }
        ]

    app = boxes.make("hostname; readlink /proc/self/ns/net; sleep 0.01", container)
    result = app.run()
    assert result.lines[0] == "pod"
    assert result.lines[1] == os.readlink(f"/proc/{pid}/ns/net")
    assert pause.cgroups.pids() == [pid]
