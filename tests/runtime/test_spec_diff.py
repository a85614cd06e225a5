"""What may differ between an image and a restore's bundle, and what may not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from runtime.spec_diff import Verdict, judge

Spec = dict[str, Any]

BASE: Spec = {
    "ociVersion": "1.2.0",
    "hostname": "one",
    "annotations": {"a": "1"},
    "root": {"path": "rootfs", "readonly": True},
    "process": {
        "args": ["sh"],
        "env": ["A=1"],
        "cwd": "/",
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": ["CAP_KILL"]},
        "terminal": False,
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "source": "/srv/data", "options": ["rbind", "rw"]},
    ],
    "linux": {
        "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}],
        "resources": {"memory": {"limit": 1 << 30}},
        "cgroupsPath": "/a",
        "maskedPaths": ["/proc/kcore"],
        "sysctl": {"kernel.msgmax": "8192"},
    },
}


def changed(change: Callable[[Spec], object]) -> Spec:
    spec = copy.deepcopy(BASE)
    change(spec)
    return spec


def test_the_same_configuration_has_no_differences() -> None:
    assert judge(BASE, copy.deepcopy(BASE)) == ([], [])


def test_missing_null_and_empty_mean_the_same() -> None:
    spec = changed(lambda s: s.update(hooks=None, domainname=""))
    spec["linux"]["seccomp"] = None
    spec["root"].setdefault("extra", None)
    assert judge(BASE, spec) == ([], [])


def _add_mount(spec: Spec) -> None:
    spec["mounts"].append({"destination": "/more", "type": "tmpfs", "source": "tmpfs"})


def _set_network(spec: Spec) -> None:
    spec["linux"]["namespaces"][2]["path"] = "/run/netns/x"


@pytest.mark.parametrize(
    ("change", "path", "verdict"),
    [
        (lambda s: s.update(hostname="two"), "hostname", Verdict.APPLIED),
        (lambda s: s["annotations"].update(b="2"), "annotations", Verdict.APPLIED),
        (
            lambda s: s.update(hooks={"poststop": []}) or s["hooks"].update(x=[1]),
            "hooks",
            "applied",
        ),
        (lambda s: s["linux"].update(cgroupsPath="/b"), "linux.cgroupsPath", Verdict.APPLIED),
        (lambda s: s["linux"].update(resources={}), "linux.resources", Verdict.APPLIED),
        (_add_mount, "mounts[/more]", Verdict.APPLIED),
        (lambda s: s["mounts"][1].update(source="/b"), "mounts[/data].source", Verdict.APPLIED),
        (_set_network, "linux.namespaces[network].path", Verdict.APPLIED),
        (lambda s: s["process"].update(oomScoreAdj=5), "process.oomScoreAdj", Verdict.APPLIED),
        (lambda s: s["root"].update(path="/other"), "root.path", Verdict.APPLIED),
        (
            lambda s: s["linux"]["maskedPaths"].append("/proc/keys"),
            "linux.maskedPaths",
            Verdict.APPLIED,
        ),
        (
            lambda s: s["linux"]["sysctl"].update({"net.ipv4.ip_forward": "1"}),
            "linux.sysctl[net.ipv4.ip_forward]",
            Verdict.APPLIED,
        ),
        (lambda s: s["process"].update(args=["other"]), "process.args", Verdict.KEPT),
        (lambda s: s["process"].update(env=[]), "process.env", Verdict.KEPT),
    ],
)
def test_what_may_differ(change: Callable[[Spec], object], path: str, verdict: str) -> None:
    differences, refusals = judge(BASE, changed(change))
    assert refusals == []
    assert [(difference.path, difference.verdict) for difference in differences] == [
        (path, verdict)
    ]


@pytest.mark.parametrize(
    ("change", "reason", "path"),
    [
        (lambda s: s["root"].update(readonly=False), "spec-root-readonly", "root.readonly"),
        (lambda s: s["mounts"].pop(0), "spec-mount-removed", "mounts[/proc]"),
        (lambda s: s["mounts"][0].update(type="tmpfs"), "spec-mount-type", "mounts[/proc].type"),
        (
            lambda s: s["mounts"][1].update(options=["rbind", "ro"]),
            "spec-mount-options",
            "mounts[/data].options",
        ),
        (
            lambda s: s["linux"]["namespaces"].append({"type": "user"}),
            "spec-namespaces",
            "linux.namespaces[user]",
        ),
        (lambda s: s["linux"]["namespaces"].pop(0), "spec-namespaces", "linux.namespaces[pid]"),
        (
            lambda s: s["linux"]["namespaces"][0].update(path="/proc/1/ns/pid"),
            "spec-namespaces",
            "linux.namespaces[pid].path",
        ),
        (
            lambda s: s["linux"].update(uidMappings=[{"containerID": 0}]),
            "spec-user-mapping",
            "linux.uidMappings",
        ),
        (
            lambda s: s["linux"].update(seccomp={"defaultAction": "SCMP_ACT_ALLOW"}),
            "spec-seccomp",
            "linux.seccomp",
        ),
        (lambda s: s["linux"]["maskedPaths"].clear(), "spec-masked-paths", "linux.maskedPaths"),
        (
            lambda s: s["linux"]["sysctl"].update({"kernel.msgmax": "1"}),
            "spec-sysctl",
            "linux.sysctl[kernel.msgmax]",
        ),
        (lambda s: s["process"].update(terminal=True), "spec-terminal", "process.terminal"),
        (lambda s: s["process"].update(user={"uid": 5}), "spec-process", "process.user"),
        (
            lambda s: s["process"].update(noNewPrivileges=True),
            "spec-process",
            "process.noNewPrivileges",
        ),
        (
            lambda s: s["linux"].update(rootfsPropagation="shared"),
            "spec-changed",
            "linux.rootfsPropagation",
        ),
        (lambda s: s.update(vm={"x": 1}), "spec-changed", "vm"),
    ],
)
def test_what_may_not_differ(change: Callable[[Spec], object], reason: str, path: str) -> None:
    _differences, refusals = judge(BASE, changed(change))
    assert [(refusal.reason, refusal.subject) for refusal in refusals] == [(reason, path)]


def test_a_time_namespace_is_the_restores_own_matter() -> None:
    differences, refusals = judge(
        BASE, changed(lambda s: s["linux"]["namespaces"].append({"type": "time"}))
    )
    assert refusals == []
    assert [difference.verdict for difference in differences] == [Verdict.KEPT]


def test_every_refusal_is_reported_at_once() -> None:
    def change(spec: Spec) -> None:
        spec["root"]["readonly"] = False
        spec["mounts"].clear()

    _differences, refusals = judge(BASE, changed(change))
    assert {refusal.subject for refusal in refusals} == {
        "root.readonly",
        "mounts[/proc]",
        "mounts[/data]",
    }
