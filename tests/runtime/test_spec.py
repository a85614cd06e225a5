"""The OCI configuration: what is accepted, and that nothing else is skipped."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import SpecError
from runtime.kernel.mount import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_RDONLY,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
)
from runtime.spec import default_spec, do_spec, load_spec, parse_spec
from runtime.spec.model import DeviceRule, IdMapping, Spec

Json = dict[str, Any]

_DELETE = object()


def _changed(path: str, value: Any) -> Json:
    """The default configuration with one thing changed, at ``linux.namespaces.0.type`` say."""
    raw = copy.deepcopy(default_spec())
    *parents, last = path.split(".")
    target: Any = raw
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
    if value is _DELETE:
        del target[last]
    elif isinstance(target, list) and last == "+":
        target.append(value)
    else:
        target[int(last) if isinstance(target, list) else last] = value
    return raw


def _parse(raw: Json) -> Spec:
    return parse_spec(raw, Path("/bundle"))


def test_the_template_parses() -> None:
    spec = _parse(default_spec())
    assert spec.rootfs == Path("/bundle/rootfs")
    assert spec.root_readonly
    assert spec.process.args == ("sh",)
    assert spec.process.terminal
    assert spec.linux.makes_new("pid")
    assert not spec.linux.makes_new("user")
    assert spec.linux.resources.devices == (DeviceRule(False),)


def test_do_spec_parses() -> None:
    spec = _parse(do_spec(["ls", "-l"], cwd="/tmp", env=["A=1"], hide=["/var/lib/x"]))
    assert spec.process.env[0] == "A=1"
    assert spec.process.env[1].startswith("PATH=")
    assert spec.rootfs == Path("/")
    assert "/var/lib/x" in spec.linux.masked_paths
    shared = _parse(do_spec(["ls"], host_network=True))
    assert shared.linux.namespace("net") is None


def test_raw_is_kept_as_it_was() -> None:
    raw = default_spec()
    assert _parse(raw).raw == default_spec()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("ociVersion", "2.0.0", "ociVersion: '2.0.0'; wherry knows version 1"),
        ("ociVersion", 1, "ociVersion: int 1, needs a string"),
        ("root", _DELETE, "root: is missing"),
        ("process", _DELETE, "process: is missing"),
        ("process.args", [], "process.args: needs at least the program"),
        ("process.cwd", "relative", "process.cwd: 'relative' is not an absolute path"),
        ("process.terminal", "yes", "process.terminal: str 'yes', needs true or false"),
        ("process.user.uid", -1, "process.user.uid: -1 is not between 0 and"),
        ("process.user.uid", True, "process.user.uid: bool True, needs an integer"),
        ("process.user.username", "x", "process.user.username: is for Windows"),
        ("process.env", ["=x"], "process.env[0]: '=x' is not NAME=VALUE"),
        ("process.env", ["A=\0"], "process.env[0]: contains a NUL byte"),
        ("process.apparmorProfile", "x", "process.apparmorProfile: AppArmor is not supported"),
        ("process.selinuxLabel", "x", "process.selinuxLabel: SELinux is not supported"),
        ("process.oomScoreAdj", 1001, "process.oomScoreAdj: 1001 is not between -1000 and 1000"),
        ("process.rlimits.0.type", "RLIMIT_X", "process.rlimits[0].type: 'RLIMIT_X' is none of"),
        ("process.rlimits.0.soft", 2000, "RLIMIT_NOFILE: soft limit 2000 is above hard limit 1024"),
        (
            "process.rlimits.+",
            {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1},
            "process.rlimits[1]: RLIMIT_NOFILE is given twice",
        ),
        (
            "process.capabilities.bounding",
            ["CAP_FLY"],
            "process.capabilities.bounding[0]: 'CAP_FLY' is none of",
        ),
        ("hostname", "x" * 65, "hostname: 65 bytes, the kernel takes at most 64"),
        ("mounts.0.destination", "/", "mounts[0].destination: is the root itself"),
        ("mounts.0.type", "bind", "mounts[0].type: 'bind' is no file system; a bind mount needs"),
        ("mounts.1.options.+", "remount", "mounts[1].options[4]: 'remount': a container is built"),
        ("mounts.1.options.+", "idmap", "mounts[1].options: only bind mounts can be id-mapped"),
        (
            "mounts.0.uidMappings",
            [{"containerID": 0, "hostID": 1, "size": 1}],
            "mounts[0].uidMappings: uidMappings and gidMappings go together",
        ),
        (
            "mounts.+",
            {"destination": "/x", "source": "/x", "options": ["bind", "idmap"]},
            "mounts[7].options: needs uidMappings and gidMappings, its own or the container's",
        ),
        ("mounts.0.options", ["tmpcopyup"], "mounts[0].options: tmpcopyup needs the type tmpfs"),
        (
            "mounts.+",
            {"destination": "/x", "options": ["bind"]},
            "mounts[7].source: a bind mount needs one",
        ),
        (
            "mounts.+",
            {"destination": "/x", "source": "/x", "options": ["bind", "size=1"]},
            "mounts[7].options[1]: 'size=1' means nothing for a bind mount",
        ),
        (
            "mounts.+",
            {"destination": "/x", "source": "/x", "options": ["bind", "sync"]},
            "mounts[7].options[1]: 'sync' cannot be set on a bind mount alone",
        ),
        ("hooks", {"prestart": [{"path": "x"}]}, "hooks.prestart[0].path: 'x' is not an absolute"),
        ("hooks", {"before": []}, "hooks.before: unknown key"),
        ("annotations", {"a": 1}, "annotations.a: int 1, needs a string"),
        ("linux.namespaces.0.type", "disk", "linux.namespaces[0].type: 'disk' is none of"),
        ("linux.namespaces.+", {"type": "pid"}, "linux.namespaces[6]: the pid namespace is given"),
        ("linux.namespaces", [{"type": "pid"}], "linux.namespaces: wherry needs a mount namespace"),
        (
            "linux.namespaces.0.path",
            "x",
            "linux.namespaces[0].path: 'x' is not an absolute path",
        ),
        (
            "linux.namespaces.+",
            {"type": "user"},
            "linux.uidMappings: a new user namespace needs a mapping of id 0",
        ),
        (
            "linux.uidMappings",
            [{"containerID": 0, "hostID": 1, "size": 1}],
            "linux.uidMappings: needs a user namespace",
        ),
        (
            "linux.timeOffsets",
            {"monotonic": {"secs": 1}},
            "linux.timeOffsets: needs a new time namespace",
        ),
        ("linux.timeOffsets", {"realtime": {}}, "linux.timeOffsets.realtime: only monotonic and"),
        ("linux.cgroupsPath", "/a/../b", "linux.cgroupsPath: '/a/../b' must not contain .."),
        ("linux.sysctl", {"vm.swappiness": "1"}, "linux.sysctl['vm.swappiness']: does not belong"),
        ("linux.sysctl", {"kernel.hostname": "x"}, "linux.sysctl['kernel.hostname']: use hostname"),
        ("linux.sysctl", {"net/../kernel/x": "1"}, "is no name of a kernel parameter"),
        ("linux.intelRdt", {"closID": "x"}, "linux.intelRdt: Intel RDT is not supported"),
        ("linux.mountLabel", "x", "linux.mountLabel: SELinux is not supported"),
        ("linux.netDevices", {"eth0": {}}, "linux.netDevices: moving network devices"),
        ("linux.memoryPolicy", {"mode": "x"}, "linux.memoryPolicy: NUMA memory policies"),
        ("linux.rootfsPropagation", "loud", "linux.rootfsPropagation: 'loud' is no propagation"),
        ("linux.personality", {"domain": "BSD"}, "linux.personality.domain: 'BSD' is none of"),
        ("linux.personality", {"domain": "LINUX", "flags": ["x"]}, "linux.personality.flags: the"),
        ("linux.maskedPaths", ["x"], "linux.maskedPaths[0]: 'x' is not an absolute path"),
        ("linux.devices", [{"path": "x", "type": "c"}], "linux.devices[0].path: 'x' is not an"),
        ("linux.devices", [{"path": "/x", "type": "c"}], "linux.devices[0].major: is missing"),
        ("linux.resources.rdma", {"x": {}}, "linux.resources.rdma: the rdma controller is not"),
        ("linux.resources.pids", {"limit": "5"}, "linux.resources.pids.limit: str '5', needs an"),
        ("linux.resources.unified", {"../x": "1"}, "linux.resources.unified['../x']: is not a"),
        ("linux.resources.devices.0.access", "x", "linux.resources.devices[0].access: 'x' has"),
        (
            "linux.resources.memory",
            {"limit": 10, "swap": 5},
            "linux.resources.memory.swap: 5 (memory and swap together) is below the memory limit",
        ),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_X"}, "linux.seccomp.defaultAction: 'SCMP_A"),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"},
            "linux.seccomp.listenerPath: seccomp notification is not supported",
        ),
        ("windows", {"layerFolders": ["x"]}, "windows: wherry runs Linux containers only"),
        ("vm", {"kernel": {}}, "vm: wherry runs Linux containers only"),
    ],
)
def test_refuses_with_the_path(path: str, value: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        _parse(_changed(path, value))
    assert message in str(caught.value)
    assert str(caught.value).startswith("config.json: ")
    assert caught.value.reason in ("spec-invalid", "spec-unsupported")


def _objects(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of all objects in a configuration."""
    found = [path] if isinstance(value, dict) else []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in items:
        if isinstance(child, dict | list):
            found += _objects(child, (*path, key))
    return found


def _full() -> Json:
    """A configuration in which every kind of object occurs."""
    raw = default_spec()
    raw["hooks"] = {"poststop": [{"path": "/bin/true", "args": ["true"], "timeout": 1}]}
    raw["process"]["scheduler"] = {"policy": "SCHED_OTHER"}
    raw["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE"}
    raw["process"]["consoleSize"] = {"height": 1, "width": 2}
    raw["process"]["execCPUAffinity"] = {"final": "0"}
    linux = raw["linux"]
    linux["namespaces"] += [{"type": "user"}, {"type": "time"}]
    linux["uidMappings"] = [{"containerID": 0, "hostID": 5, "size": 7}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": 5, "size": 7}]
    linux["timeOffsets"] = {"boottime": {"secs": 1, "nanosecs": 2}}
    linux["devices"] = [{"path": "/dev/x", "type": "c", "major": 1, "minor": 2}]
    linux["personality"] = {"domain": "LINUX"}
    linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {
                "names": ["x"],
                "action": "SCMP_ACT_LOG",
                "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
            }
        ],
    }
    linux["resources"].update(
        memory={"limit": 5},
        cpu={"shares": 5},
        pids={"limit": 5},
        network={"classID": 1, "priorities": [{"name": "lo", "priority": 1}]},
        hugepageLimits=[{"pageSize": "2MB", "limit": 1}],
        blockIO={
            "weight": 10,
            "weightDevice": [{"major": 1, "minor": 1, "weight": 10}],
            "throttleReadBpsDevice": [{"major": 1, "minor": 1, "rate": 1}],
        },
    )
    return raw


_FREE_KEYS = (("annotations",), ("linux", "sysctl"), ("linux", "resources", "unified"))


@pytest.mark.parametrize("path", _objects(_full()), ids=lambda path: ".".join(map(str, path)))
def test_an_unknown_key_is_refused_in_every_object(path: tuple[str | int, ...]) -> None:
    raw = _full()
    _parse(raw)
    target: Any = raw
    for part in path:
        target = target[part]
    target["unheardOf"] = {"x": 1}
    with pytest.raises(SpecError, match="unheardOf"):
        _parse(raw)


def test_user_namespace_mappings() -> None:
    assert _parse(_full()).linux.uid_mappings == (IdMapping(0, 5, 7),)


def test_mount_options() -> None:
    mount: Json = {
        "destination": "/mnt/../data",
        "source": "here",
        "options": ["rbind", "rro", "noatime", "nosuid", "rprivate", "ro", "rw"],
    }
    parsed = _parse(_changed("mounts.+", mount)).mounts[-1]
    assert parsed.destination == "/data"
    assert parsed.source == "/bundle/here"
    assert parsed.bind
    assert parsed.recursive
    assert parsed.rec_set == MOUNT_ATTR_RDONLY
    assert parsed.attr_set & MOUNT_ATTR_NOATIME
    assert parsed.attr_clear & MOUNT_ATTR__ATIME
    assert parsed.attr_clear & MOUNT_ATTR_RDONLY
    assert not parsed.attr_set & MOUNT_ATTR_RDONLY
    assert parsed.propagation == (MS_PRIVATE | MS_REC,)


def test_mount_data() -> None:
    mount: Json = {"destination": "x", "type": "tmpfs", "options": ["nosuid", "size=1k", "mode=7"]}
    parsed = _parse(_changed("mounts.+", mount)).mounts[-1]
    assert parsed.destination == "/x"
    assert parsed.flags == MS_NOSUID
    assert parsed.data == "size=1k,mode=7"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"ociVersion": "1.0.0"}', "[" * 100_000])
def test_bad_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SpecError):
        load_spec(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="a bundle is a directory with") as caught:
        load_spec(tmp_path)
    assert caught.value.reason == "no-config"


def test_good_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(default_spec()))
    assert load_spec(tmp_path).rootfs == tmp_path / "rootfs"
