"""Hooks, restore mode, failures, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from pathlib import Path

import pytest

from runtime.errors import ContainerError, HookError
from runtime.kernel.clone import CLONE_NEWPID
from runtime.kernel.namespaces import setns
from runtime.sandbox.launch import RestoreStub
from runtime.sandbox.overlay import Overlay
from tests.runtime.sandbox.box import Boxes, Change, Json
from tests.support.wait import wait_until


def _hook(scratch: Path, name: str, script: str) -> Json:
    return {
        "path": "/bin/sh",
        "args": ["sh", "-c", script],
        "env": [f"OUT={scratch / name}", "PATH=/usr/bin:/bin"],
    }


def _hooks(scratch: Path, **scripts: str) -> Change:
    def change(raw: Json) -> None:
        raw["hooks"] = {name: [_hook(scratch, name, script)] for name, script in scripts.items()}

    return change


def test_hooks_of_the_runtime(boxes: Boxes, scratch: Path) -> None:
    script = "cat > $OUT; readlink /proc/self/ns/mnt /proc/self/ns/net >> $OUT"
    box = boxes.make("exec sleep 1000", _hooks(scratch, prestart=script, createRuntime=script))
    box.create()
    for name in ("prestart", "createRuntime"):
        state, *namespaces = (scratch / name).read_text().replace("}mnt", "}\nmnt").splitlines()
        assert json.loads(state) == {
            "ociVersion": "1.2.0",
            "id": "box",
            "status": "creating",
            "pid": box.running.pid,
            "bundle": str(box.directory),
            "annotations": {},
        }
        assert namespaces == [os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "net")]


def test_hooks_in_the_container(boxes: Boxes, scratch: Path) -> None:
    script = "cat > /tmp/state; readlink /proc/self/ns/mnt >> /tmp/state; ls / >> /tmp/state"
    change = _hooks(
        scratch,
        createContainer=script.replace("/tmp/", str(scratch) + "/created-"),
        startContainer=script,
    )
    box = boxes.make("cat /tmp/state; sleep 1000", change)
    box.create()
    mounts = os.readlink(f"/proc/{box.running.pid}/ns/mnt")
    created = (scratch / "created-state").read_text()
    assert json.JSONDecoder().raw_decode(created)[0]["pid"] == 1
    assert mounts in created
    assert not (scratch / "tmp").exists()
    box.start()
    wait_until(lambda: "usr" in box.output.read_text())
    state, _ = json.JSONDecoder().raw_decode(box.output.read_text())
    assert state["status"] == "created"
    assert state["pid"] == 1
    assert mounts in box.output.read_text()


def test_create_runtime_hooks_come_before_create_container_hooks(
    boxes: Boxes, scratch: Path
) -> None:
    order = f"echo $0 >> {scratch}/order"

    def change(raw: Json) -> None:
        raw["hooks"] = {
            name: [{"path": "/bin/sh", "args": ["sh", "-c", order, name]}]
            for name in ("createContainer", "createRuntime", "prestart")
        }

    boxes.make("true", change).create()
    assert (scratch / "order").read_text().split() == [
        "prestart",
        "createRuntime",
        "createContainer",
    ]


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer"])
def test_failing_hook_ends_the_creation(boxes: Boxes, scratch: Path, name: str) -> None:
    box = boxes.make("true", _hooks(scratch, **{name: "echo the reason >&2; exit 7"}))
    with pytest.raises(HookError, match=rf"{name} hook 0 .*exit status 7.*the reason"):
        box.create()
    assert not box.cgroups.exists


def test_failing_start_container_hook_ends_the_container(boxes: Boxes, scratch: Path) -> None:
    box = boxes.make("echo unreached", _hooks(scratch, startContainer="exit 7"))
    box.create()
    with pytest.raises(HookError, match="startContainer hook 0"):
        box.start()
    assert box.wait().status == 1
    assert box.output.read_text() == ""


def _stub_elf() -> int:
    """A static program: it writes "up" to descriptor 1000 and exits with 42."""
    if os.uname().machine == "x86_64":
        code = bytes.fromhex(
            "b801000000"
            "bfe8030000"
            "488d3513000000"
            "ba02000000"
            "0f05"  # write(1000, text, 2)
            "b83c000000"
            "bf2a000000"
            "0f05"  # exit(42)
        )
        code = code[:10] + bytes.fromhex("488d3513000000") + code[17:]
        machine = 62
    else:
        pytest.skip("feature stub: the test's program is for x86-64")
    code += b"up"
    base, offset = 0x400000, 120
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, base + offset, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    )
    size = offset + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096)
    fd = os.memfd_create("stub", os.MFD_CLOEXEC)
    os.write(fd, header + segment + code)
    return fd


def test_restore_mode_executes_the_stub_when_told(boxes: Boxes) -> None:
    def unprivileged(raw: Json) -> None:
        raw["process"]["user"] = {"uid": 1000, "gid": 1000}
        raw["process"]["args"] = ["/no/such/program"]
        raw["process"]["cwd"] = "/no/such/directory"

    ours, theirs = socket.socketpair()
    elf = _stub_elf()
    box = boxes.make("", unprivileged)
    with ours, theirs:
        box.create(restore=RestoreStub(elf, theirs.fileno(), 5_500_000_000, -2_000_000_000))
        pid = box.running.pid
        theirs.close()
        os.close(elf)
        offsets = Path(f"/proc/{pid}/timens_offsets").read_text().split()
        assert offsets == ["monotonic", "5", "500000000", "boottime", "-2", "0"]
        assert "Uid:\t0\t0\t0\t0" in Path(f"/proc/{pid}/status").read_text()
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(10)
        ours.setblocking(True)
        box.running.go()
        assert ours.recv(10) == b"up"
        assert ours.recv(10) == b""
    assert box.wait().status == 42


def test_killed_maker_leaves_no_init(boxes: Boxes, scratch: Path) -> None:
    """The maker dies while a hook runs; the init sees end-of-file and goes."""
    started, gate = scratch / "started", scratch / "gate"
    os.mkfifo(gate)
    box = boxes.make("true", _hooks(scratch, createRuntime=f"cat > {started}; exec cat {gate}"))
    maker = os.fork()
    if maker == 0:
        try:
            box.create()
        finally:
            os._exit(1)
    wait_until(lambda: started.exists() and started.read_text().endswith("}"))
    init = json.loads(started.read_text())["pid"]
    os.kill(maker, signal.SIGKILL)
    os.waitpid(maker, 0)
    with gate.open("w"):  # lets the hook end
        pass
    wait_until(
        lambda: not Path(f"/proc/{init}").exists() or "Z" in Path(f"/proc/{init}/stat").read_text()
    )


def test_failed_creations_leave_nothing(boxes: Boxes) -> None:
    before_fds = set(os.listdir("/proc/self/fd"))

    def broken(raw: Json) -> None:
        raw["mounts"].append({"destination": "/x", "type": "nosuchfs", "source": "x"})

    for _ in range(3):
        box = boxes.make("true", broken)
        with pytest.raises(ContainerError, match="nosuchfs"):
            box.create()
        assert not box.cgroups.exists
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
    assert len(os.listdir("/proc/self/fd")) == len(before_fds)
    assert str(box.directory) not in Path("/proc/self/mountinfo").read_text()


def test_descriptors_do_not_pile_up(boxes: Boxes) -> None:
    boxes.run("true")
    before = len(os.listdir("/proc/self/fd"))
    box = boxes.make("exec sleep 1000")
    box.create()
    box.start()
    during = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        assert box.execute("true").status == 0
    assert len(os.listdir("/proc/self/fd")) == during
    assert during - before <= 3  # the pidfd and the channel


def test_other_processes_of_the_namespace_die_with_the_init(boxes: Boxes) -> None:
    box = boxes.make("setsid sleep 1000 & setsid sleep 1000 & exit 5")
    box.create()
    box.start()
    assert box.wait().status == 5
    wait_until(lambda: not box.cgroups.pids())


def test_overlay_on_the_host_is_undone(scratch: Path) -> None:
    lower = scratch / "lo:wer,odd\\name"
    lower.mkdir()
    (lower / "file").write_text("below")
    overlay = Overlay.below(scratch / "overlay", lower)
    assert Overlay.from_json(overlay.to_json()) == overlay
    overlay.mount()
    try:
        assert overlay.mounted
        (overlay.merged / "file").write_text("above")
        assert (lower / "file").read_text() == "below"
        assert (overlay.upper / "file").read_text() == "above"
    finally:
        overlay.unmount()
    overlay.unmount()
    assert not overlay.mounted


def test_overlay_on_an_unsuitable_file_system_says_what_to_do(scratch: Path) -> None:
    outer = Overlay.below(scratch / "outer", Path("/usr/share/misc"))
    outer.mount()
    try:
        inner = Overlay.below(outer.merged / "inner", Path("/usr/share/misc"))
        with pytest.raises(ContainerError, match="give a --root on ext4, xfs, btrfs or tmpfs"):
            inner.mount()
    finally:
        outer.unmount()


@pytest.mark.timeout(30)
def test_an_init_can_be_killed_while_children_of_ours_wait_to_be_reaped(boxes: Boxes) -> None:
    """One hides the other; and the kernel lets no init end before the last of its namespace."""
    box = boxes.make("exec sleep 1000")
    box.create()
    box.start()
    outside = os.fork() or os._exit(0)
    here = os.open("/proc/self/ns/pid", os.O_RDONLY)
    there = os.open(f"/proc/{box.running.pid}/ns/pid", os.O_RDONLY)
    setns(there, CLONE_NEWPID)
    inside = os.fork() or os._exit(0)
    setns(here, CLONE_NEWPID)
    for fd in (here, there):
        os.close(fd)
    for pid in (outside, inside):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    box.kill()
    assert os.waitpid(outside, 0) == (outside, 0)  # its waiter still gets it
    with pytest.raises(ChildProcessError):
        os.waitpid(inside, 0)
