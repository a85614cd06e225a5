"""The process object: user, capabilities, limits, environment, directory, signals, descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

import pytest

from runtime.errors import ContainerError
from runtime.kernel.capabilities import (
    CAPABILITY_NAMES,
    CAPABILITY_NUMBERS,
    get_capabilities,
    mask_of,
    names_of,
)
from tests.runtime.sandbox.box import Boxes, Json


def _status(text: str) -> dict[str, str]:
    return {
        key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }


def test_user_groups_and_umask(boxes: Boxes) -> None:
    def user(raw: Json) -> None:
        raw["process"]["user"] = {"uid": 33, "gid": 34, "additionalGids": [7, 9], "umask": 0o27}

    result = boxes.run("cat /proc/self/status; umask", user)
    status = _status(result.output)
    assert status["Uid"].split() == ["33"] * 4
    assert status["Gid"].split() == ["34"] * 4
    assert status["Groups"].split() == ["7", "9"]
    assert result.lines[-1] == "0027"


def test_default_umask(boxes: Boxes) -> None:
    assert boxes.run("umask").output == "0022\n"


def test_all_five_capability_sets(boxes: Boxes) -> None:
    def capabilities(raw: Json) -> None:
        raw["process"]["user"] = {"uid": 1000, "gid": 1000}
        raw["process"]["capabilities"] = {
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
            "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "effective": ["CAP_CHOWN"],
            "inheritable": ["CAP_CHOWN", "CAP_NET_RAW"],
            "ambient": ["CAP_CHOWN"],
        }

    status = _status(boxes.run("cat /proc/self/status", capabilities).output)
    # For a user other than root, execve keeps what is ambient
    assert int(status["CapBnd"], 16) == mask_of(["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"])
    assert int(status["CapAmb"], 16) == mask_of(["CAP_CHOWN"])
    assert int(status["CapPrm"], 16) == mask_of(["CAP_CHOWN"])
    assert int(status["CapEff"], 16) == mask_of(["CAP_CHOWN"])
    assert int(status["CapInh"], 16) == mask_of(["CAP_CHOWN", "CAP_NET_RAW"])


def test_root_gets_what_is_bounded(boxes: Boxes) -> None:
    def capabilities(raw: Json) -> None:
        names = ["CAP_CHOWN", "CAP_SETUID"]
        raw["process"]["capabilities"] = {"bounding": names, "permitted": names, "effective": names}

    status = _status(boxes.run("cat /proc/self/status", capabilities).output)
    for name in ("CapBnd", "CapPrm", "CapEff"):
        assert int(status[name], 16) == mask_of(["CAP_CHOWN", "CAP_SETUID"])


def test_capabilities_that_cannot_be_granted_are_left_out_with_a_warning(
    boxes: Boxes, caplog: pytest.LogCaptureFixture
) -> None:
    def capabilities(raw: Json) -> None:
        raw["process"]["capabilities"] = {
            "bounding": list(CAPABILITY_NAMES),
            "permitted": list(CAPABILITY_NAMES),
            "effective": ["CAP_CHOWN"],
            "ambient": ["CAP_KILL"],
        }

    status = _status(boxes.run("cat /proc/self/status", capabilities).output)
    assert int(status["CapAmb"], 16) == 0
    assert int(status["CapPrm"], 16) == get_capabilities().permitted
    assert "process.capabilities.ambient[0]: CAP_KILL is not in both" in caplog.text
    for name in set(CAPABILITY_NAMES) - set(names_of(get_capabilities().permitted)):
        assert f"wherry itself lacks {name} here; it is left out" in caplog.text


def test_no_capabilities_object_means_none(boxes: Boxes) -> None:
    def nothing(raw: Json) -> None:
        del raw["process"]["capabilities"]

    status = _status(boxes.run("cat /proc/self/status", nothing).output)
    assert {int(status[f"Cap{name}"], 16) for name in ("Bnd", "Prm", "Eff", "Inh", "Amb")} == {0}


@pytest.mark.parametrize("wanted", [True, False])
def test_no_new_privileges(boxes: Boxes, wanted: bool) -> None:
    def flag(raw: Json) -> None:
        raw["process"]["noNewPrivileges"] = wanted

    assert _status(boxes.run("cat /proc/self/status", flag).output)["NoNewPrivs"] == str(
        int(wanted)
    )


def test_rlimits(boxes: Boxes) -> None:
    def limits(raw: Json) -> None:
        raw["process"]["rlimits"] = [
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_FSIZE", "soft": 4096, "hard": 1 << 30},
        ]

    result = boxes.run("ulimit -Sn; ulimit -Hn; ulimit -Hc; cat /proc/self/limits", limits)
    assert result.lines[:3] == ["100", "200", "0"]
    assert "Max file size             4096                 1073741824" in result.output


def test_oom_score(boxes: Boxes) -> None:
    def score(raw: Json) -> None:
        raw["process"]["oomScoreAdj"] = 321

    assert boxes.run("cat /proc/self/oom_score_adj", score).output == "321\n"


def test_environment_is_exactly_the_configured_one(boxes: Boxes) -> None:
    os.environ["WHERRY_TEST_SECRET"] = "must not be seen"

    def env(raw: Json) -> None:
        raw["process"]["env"] = ["PATH=/usr/bin:/bin", "A=1=2", "EMPTY=", "A=3"]
        raw["process"]["args"] = ["env"]

    try:
        result = boxes.run("", env)
    finally:
        del os.environ["WHERRY_TEST_SECRET"]
    assert sorted(result.lines) == ["A=3", "EMPTY=", "HOME=/root", "PATH=/usr/bin:/bin"]


def test_working_directory_is_made(boxes: Boxes) -> None:
    def cwd(raw: Json) -> None:
        raw["process"]["cwd"] = "/a/new/place"

    assert boxes.run("pwd", cwd).output == "/a/new/place\n"


def test_working_directory_that_only_root_may_enter(boxes: Boxes) -> None:
    def private(raw: Json) -> None:
        raw["process"]["cwd"] = "/root"
        raw["process"]["user"] = {"uid": 1000, "gid": 1000}

    assert boxes.run("readlink /proc/self/cwd", private).status == 0


def test_signals_are_at_their_defaults(boxes: Boxes) -> None:
    def cat(raw: Json) -> None:
        raw["process"]["args"] = ["cat", "/proc/self/status"]

    status = _status(boxes.run("", cat).output)
    assert {int(status[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")} == {0}


def test_only_the_three_standard_descriptors_arrive(boxes: Boxes) -> None:
    def ls(raw: Json) -> None:
        raw["process"]["args"] = ["ls", "/proc/self/fd"]

    leak = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        assert boxes.run("", ls).lines == ["0", "1", "2", "3"]  # 3 is ls's own
    finally:
        os.close(leak)


def test_the_waiting_init_holds_nothing_of_ours(boxes: Boxes, scratch: Path) -> None:
    box = boxes.make("true")
    with (scratch / "lock").open("w"):
        box.create()
    targets = {os.readlink(path) for path in Path(f"/proc/{box.running.pid}/fd").iterdir()}
    assert str(scratch / "lock") not in targets
    box.start()
    assert box.wait().status == 0


def test_personality_scheduler_io_priority_and_affinity(boxes: Boxes) -> None:
    cpu = min(os.sched_getaffinity(0))

    def everything(raw: Json) -> None:
        raw["linux"]["personality"] = {"domain": "LINUX32"}
        raw["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
        raw["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
        raw["process"]["execCPUAffinity"] = {"final": str(cpu)}

    result = boxes.run(
        "uname -m; cut -d' ' -f19,41 /proc/self/stat; ionice; "
        "grep Cpus_allowed_list /proc/self/status",
        everything,
    )
    assert result.lines[0] in ("i686", "armv8l")
    assert result.lines[1] == "5 3"  # nice, SCHED_BATCH
    assert result.lines[2] == "best-effort: prio 6"
    assert result.lines[3].split() == ["Cpus_allowed_list:", str(cpu)]


def test_sysctls_of_the_namespaces(boxes: Boxes) -> None:
    def sysctl(raw: Json) -> None:
        raw["linux"]["sysctl"] = {
            "net.ipv4.ip_unprivileged_port_start": "80",
            "kernel.shmmni": "123",
            "net/ipv4/conf/lo/forwarding": "1",
        }

    ours = Path("/proc/sys/kernel/shmmni").read_text()
    result = boxes.run(
        "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shmmni "
        "net/ipv4/conf/lo/forwarding",
        sysctl,
    )
    assert result.lines == ["80", "123", "1"]
    assert Path("/proc/sys/kernel/shmmni").read_text() == ours


def test_sysctl_that_the_kernel_refuses(boxes: Boxes) -> None:
    def sysctl(raw: Json) -> None:
        raw["linux"]["sysctl"] = {"net.ipv4.no_such_thing": "1"}

    with pytest.raises(ContainerError, match=r"net.ipv4.no_such_thing to '1' \(linux.sysctl\)"):
        boxes.make("true", sysctl).create()


@pytest.mark.parametrize(
    ("args", "reason", "message"),
    [
        (["no-such-program"], "exec-not-found", "no-such-program: no such program in PATH=/"),
        (["/no/such/program"], "exec-not-found", "/no/such/program: no such file"),
        (["/etc/passwd"], "exec-permission", r"/etc/passwd: is not executable \(mode 0644\)"),
        (["/etc"], "exec-permission", "/etc: is a directory"),
        (["/proc/self/exe"], "exec-permission", "/proc/self/exe: cannot be executed"),
    ],
)
def test_program_that_cannot_be_executed(
    boxes: Boxes, args: list[str], reason: str, message: str
) -> None:
    def program(raw: Json) -> None:
        raw["process"]["args"] = args

    box = boxes.make("", program)
    with pytest.raises(ContainerError, match=message) as caught:
        box.create()
    assert caught.value.reason == reason
    assert str(caught.value).startswith("box: ")


def test_program_that_the_kernel_refuses_is_reported_at_start(boxes: Boxes) -> None:
    def program(raw: Json) -> None:
        raw["process"]["args"] = ["/data"]

    box = boxes.make("", program)
    assert box.overlay is not None
    box.overlay.make_directories()
    (box.overlay.upper / "data").write_bytes(b"\x01\x02no program")
    (box.overlay.upper / "data").chmod(0o755)
    box.create()
    with pytest.raises(ContainerError, match="neither a program") as caught:
        box.start()
    assert caught.value.reason == "exec-permission"
    assert box.wait().status == 1


@pytest.mark.parametrize("nnp", [True, False])
def test_interpreter_of_the_host_stays_out_of_reach(boxes: Boxes, nnp: bool) -> None:
    """A script whose interpreter is /proc/self/exe must not get the host's Python executed."""

    def program(raw: Json) -> None:
        raw["process"]["args"] = ["/evil"]
        raw["process"]["noNewPrivileges"] = nnp

    box = boxes.make("", program)
    assert box.overlay is not None
    box.overlay.make_directories()
    (box.overlay.upper / "evil").write_text("#!/proc/self/exe\nprint('python of the host')\n")
    (box.overlay.upper / "evil").chmod(0o755)
    box.create()
    with contextlib.suppress(ContainerError):
        box.start()
    result = box.wait()
    assert result.status == 1
    assert result.output == "wherry: /evil: cannot be executed\n"


def test_preserved_descriptors(boxes: Boxes) -> None:
    # The caller's convention: descriptors 3 and up, without a gap
    reader, writer = os.pipe()
    saved = [os.dup(fd) if _is_open(fd) else -1 for fd in (3, 4)]
    highest = os.dup2(os.dup(writer), 4, inheritable=True)
    os.dup2(os.dup(writer), 3, inheritable=True)
    try:
        box = boxes.make("echo three >&3; echo four >&4; ls /proc/self/fd | wc -l")
        box.preserve_fds = 2
        result = box.run()
    finally:
        for number, fd in zip((3, 4), saved, strict=True):
            if fd >= 0:
                os.dup2(fd, number)
                os.close(fd)
            else:
                os.close(number)
    assert highest == 4
    assert os.read(reader, 100) == b"three\nfour\n"
    assert result.output == "6\n"
    os.close(reader)
    os.close(writer)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_standard_streams_belong_to_the_user(boxes: Boxes) -> None:
    def user(raw: Json) -> None:
        raw["process"]["user"] = {"uid": 1000, "gid": 1000}

    box = boxes.make("echo by name > /dev/stdout", user)
    assert box.run().output == "by name\n"
    assert box.output.stat().st_uid == 1000


def test_hard_limit_above_ours_is_refused_with_both_values(boxes: Boxes) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(raw: Json) -> None:
        raw["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": hard + 1}]

    if get_capabilities().effective >> CAPABILITY_NUMBERS["CAP_SYS_RESOURCE"] & 1:
        assert boxes.run("ulimit -Hn", limit).output == f"{hard + 1}\n"
        return
    with pytest.raises(
        ContainerError, match=f"hard limit {hard + 1} is above this process's {hard}"
    ):
        boxes.make("", limit)
