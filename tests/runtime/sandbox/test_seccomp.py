"""Seccomp profiles, in real containers."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from runtime.errors import MissingFeatureError, SpecError
from runtime.sandbox.seccomp import compile_profile
from runtime.spec.model import Seccomp
from tests.runtime.sandbox.box import Boxes, Change, Json

pytest.importorskip("pyseccomp", reason="feature seccomp-binding: pyseccomp is not installed")

_ARCH = "SCMP_ARCH_X86_64" if os.uname().machine == "x86_64" else "SCMP_ARCH_AARCH64"


def _profile(*syscalls: Json, nnp: bool = True, default: str = "SCMP_ACT_ALLOW") -> Change:
    def change(raw: Json) -> None:
        raw["process"]["noNewPrivileges"] = nnp
        raw["linux"]["seccomp"] = {
            "defaultAction": default,
            "architectures": [_ARCH],
            "syscalls": list(syscalls),
        }

    return change


_NO_MKDIR = {
    "names": ["mkdir", "mkdirat"],
    "action": "SCMP_ACT_ERRNO",
    "errnoRet": errno.EMLINK,
}


@pytest.mark.parametrize("nnp", [True, False])
def test_blocks_a_call_with_the_errno(boxes: Boxes, nnp: bool) -> None:
    result = boxes.run("mkdir /x; grep Seccomp: /proc/self/status", _profile(_NO_MKDIR, nnp=nnp))
    assert "Too many links" in result.output
    assert result.lines[-1].split() == ["Seccomp:", "2"]


def test_conditions_on_arguments(boxes: Boxes) -> None:
    rule = {
        "names": ["personality"],
        "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}],
    }
    result = boxes.run("setarch linux32 uname -m || setarch -R uname -m", _profile(rule))
    assert "Operation not permitted" in result.output
    assert result.lines[-1] == os.uname().machine


def test_kill(boxes: Boxes) -> None:
    result = boxes.run(
        "mkdir /x; echo $?",
        _profile({**_NO_MKDIR, "action": "SCMP_ACT_KILL_PROCESS", "errnoRet": None}),
    )
    assert result.lines[-1] == "159"  # SIGSYS


def test_unknown_names_are_no_hindrance(boxes: Boxes) -> None:
    rule = {"names": ["no_such_call", "mseal", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
    assert "Operation not permitted" in boxes.run("mkdir /x", _profile(rule)).output


def test_exec_sessions_are_filtered_too(boxes: Boxes) -> None:
    box = boxes.make("sleep 1000", _profile(_NO_MKDIR))
    box.create()
    box.start()
    assert "Too many links" in box.execute("mkdir /x").output


def test_unknown_architecture_is_refused(boxes: Boxes) -> None:
    def change(raw: Json) -> None:
        _profile(_NO_MKDIR)(raw)
        raw["linux"]["seccomp"]["architectures"].append("SCMP_ARCH_NONE")

    with pytest.raises(SpecError, match=r"linux.seccomp.architectures\[1\]: 'SCMP_ARCH_NONE'"):
        boxes.make("true", change).create()


def test_notification_is_refused(boxes: Boxes) -> None:
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}
    with pytest.raises(
        SpecError, match=r"linux.seccomp.syscalls\[0\].action: seccomp notification"
    ):
        boxes.make("true", _profile(rule))


def test_without_the_binding_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    with pytest.raises(MissingFeatureError, match=r"linux.seccomp: needs libseccomp"):
        compile_profile(Seccomp("SCMP_ACT_ALLOW"))


@pytest.mark.parametrize("nnp", [True, False])
def test_filter_without_execveat(boxes: Boxes, nnp: bool) -> None:
    rule = {"names": ["execveat"], "action": "SCMP_ACT_KILL_PROCESS"}
    assert boxes.run("echo fine", _profile(rule, nnp=nnp)).output == "fine\n"


@pytest.mark.skipif(_ARCH != "SCMP_ARCH_X86_64", reason="feature x86: not on this machine")
@pytest.mark.parametrize("others", [[], ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]])
def test_a_whole_allow_list(boxes: Boxes, others: list[str]) -> None:
    """The shape of Docker's default profile: deny, and list what is allowed."""

    def change(raw: Json) -> None:
        _profile(rule, default="SCMP_ACT_ERRNO")(raw)
        raw["linux"]["seccomp"]["architectures"] += others

    text = Path(__file__).with_name("allowed_calls.txt").read_text()
    rule = {"names": text.split(), "action": "SCMP_ACT_ALLOW"}
    result = boxes.run("ls / > /dev/null && echo fine; unshare -U true", change)
    assert result.lines[0] == "fine"
    assert "Operation not permitted" in result.output
