"""Programs that go on before their memory is there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from formats.index import ImageIndex
from runtime.process import ProcessRef
from tests.support.bundles import Change, make_bundle
from tests.support.command import Wherry
from tests.support.wait import wait_until
from tests.support.workloads import Stage, stage

PROGRAM = "lazy/changes.c"

pytestmark = pytest.mark.timeout(120)


def record(wherry: Wherry, cid: str) -> dict[str, Any]:
    """What the container's record says beside the usual; empty while there is none."""
    try:
        extra: dict[str, Any] = json.loads((wherry.root / cid / "state.json").read_text())["extra"]
    except FileNotFoundError:
        return {}
    return extra


def fillers(wherry: Wherry, cid: str) -> list[ProcessRef]:
    """The pager and the guard, as soon as there are any."""
    saved = wait_until(lambda: record(wherry, cid).get("filling"), 30, "a pager")
    return [ref for ref in map(ProcessRef.from_json, saved or ()) if ref is not None]


def finished(wherry: Wherry, cid: str) -> bool:
    return not any(process.alive() for process in fillers(wherry, cid))


@pytest.fixture
def play(wherry: Wherry, scratch: Path) -> Iterator[Stage]:
    """The program's image is at ``image.wherry``; restored, it does not wait for anybody."""
    with stage(wherry, scratch, PROGRAM) as play:
        play.start("before")
        play.checkpoint("before", scratch / "image.wherry", leave_running=False)
        (play.control / "go").touch()
        yield play


def _result(play: Stage, cid: str) -> str:
    path = play.wherry.root / cid / "overlay" / "upper"
    path = path / play.control.relative_to("/") / "result"
    return path.read_text() if path.exists() else ""


def ends_well(play: Stage, cid: str) -> None:
    """The program has checked every page, and the container is gone afterwards."""
    wait_until(lambda: play.wherry.status(cid) == "stopped", 60, f"the end of {cid}")
    assert _result(play, cid) == "ok", play.wherry.json("state", cid)
    play.delete(cid)


def restore_and_stop_pager(play: Stage, cid: str, image: Path) -> list[ProcessRef]:
    """Restore lazily; the pager is stopped before it has done much."""
    call = play.wherry.popen("restore", "--lazy", "--detach", "--image-path", image, cid)
    play.alive.append(cid)
    pager, guard = fillers(play.wherry, cid)
    os.kill(pager.pid, signal.SIGSTOP)
    assert call.wait(30) == 0
    return [pager, guard]


def test_memory_changes_while_it_is_filled(play: Stage, scratch: Path) -> None:
    for number in range(3):
        play.restore(f"after-{number}", scratch / "image.wherry", "--lazy")
        ends_well(play, f"after-{number}")


def test_memory_changes_under_a_halting_pager(play: Stage, scratch: Path) -> None:
    """So that everything happens at every moment of its work."""
    pager, _ = restore_and_stop_pager(play, "after", scratch / "image.wherry")
    while pager.alive():
        wait_until(lambda: _state(pager.pid) in "TZX", 30, "the pager to halt")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pager.pid, signal.SIGCONT)
        wait_until(lambda: _state(pager.pid) != "T", 30, "the pager to go on")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pager.pid, signal.SIGSTOP)
    ends_well(play, "after")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def test_a_created_container_is_filled_before_it_starts(play: Stage, scratch: Path) -> None:
    play.wherry("create", "--restore", scratch / "image.wherry", "--lazy", "after")
    play.alive.append("after")
    wait_until(lambda: finished(play.wherry, "after"), 30, "the pager's end")
    assert play.wherry.status("after") == "created"
    play.wherry("start", "after")
    ends_well(play, "after")


def test_nothing_of_it_is_left_when_all_is_there(play: Stage, scratch: Path) -> None:
    play.wherry("create", "--restore", scratch / "image.wherry", "after")
    play.alive.append("after")
    plain = _mappings(play, "after")
    play.wherry("delete", "--force", "after")
    play.wherry("create", "--restore", scratch / "image.wherry", "--lazy", "after")
    wait_until(lambda: finished(play.wherry, "after"), 30, "the pager's end")
    assert _mappings(play, "after") == plain


def _mappings(play: Stage, cid: str) -> list[str]:
    """Every mapping with its flags; what is resident may differ."""
    pid = play.wherry.json("state", cid)["pid"]
    lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    return [line.split(" 0", 1)[0] for line in lines if "-" in line[:17] or "VmFlags" in line]


def test_a_checkpoint_waits_until_all_is_there(play: Stage, scratch: Path) -> None:
    second = scratch / "second.wherry"
    (play.control / "go").unlink()
    pager, _ = restore_and_stop_pager(play, "after", scratch / "image.wherry")
    call = play.wherry.popen("checkpoint", "--leave-running", "--image-path", second, "after")
    waiting = f"/proc/{call.pid}/wchan"
    wait_until(lambda: "poll" in Path(waiting).read_text(), 30, "the checkpoint to wait")
    os.kill(pager.pid, signal.SIGCONT)
    assert call.wait(60) == 0
    assert play.finish("after") == "ok"
    play.restore("again", second)
    assert play.finish("again") == "ok"


def test_delete_does_not_wait_for_the_pager(play: Stage, scratch: Path) -> None:
    for _ in range(2):
        processes = restore_and_stop_pager(play, "after", scratch / "image.wherry")
        play.wherry("delete", "--force", "after", timeout=15)
        play.alive.remove("after")
        assert not any(process.alive() for process in processes)


def test_pause_and_exec_while_it_is_filled(play: Stage, scratch: Path) -> None:
    for number in range(2):
        cid = f"after-{number}"
        play.restore(cid, scratch / "image.wherry", "--lazy")
        play.wherry("pause", cid, check=False)
        play.wherry("resume", cid, check=False)
        play.wherry("exec", cid, "true", check=False)
        ends_well(play, cid)


@pytest.mark.parametrize("working", [False, True])
def test_a_killed_pager_ends_the_container(play: Stage, scratch: Path, working: bool) -> None:
    pager, guard = restore_and_stop_pager(play, "after", scratch / "image.wherry")
    if working:
        os.kill(pager.pid, signal.SIGCONT)
    os.kill(pager.pid, signal.SIGKILL)
    wait_until(lambda: not guard.alive(), 30, "the guard's end")
    wait_until(lambda: play.wherry.status("after") == "stopped", 30, "the container's end")
    state = play.wherry.json("state", "after")
    assert state["killed"]["reason"] == "pager-killed"
    assert "signal 9" in (play.wherry.root / "after" / "monitor.log").read_text()
    result = play.wherry.fails("checkpoint", "--image-path", scratch / "x", "after")
    assert "[pager-killed]" in result.stderr
    assert _result(play, "after") == ""  # no page was wrong


def test_a_killed_guard_is_not_needed_by_a_pager_that_works(play: Stage, scratch: Path) -> None:
    pager, guard = restore_and_stop_pager(play, "after", scratch / "image.wherry")
    os.kill(guard.pid, signal.SIGKILL)
    os.kill(pager.pid, signal.SIGCONT)
    ends_well(play, "after")


def test_damage_ends_the_container(play: Stage, scratch: Path) -> None:
    image = scratch / "image.wherry"
    with image.open("rb", buffering=0) as file:
        entries = [e for e in ImageIndex(file).for_each_entry() if e.head.plain_size > 500_000]
    # Where the program does not get to before the pager does.
    entry = entries[-1]
    with image.open("r+b") as out:
        out.seek(entry.body_position + entry.head.stored_size // 2)
        byte = out.read(1)[0]
        out.seek(-1, os.SEEK_CUR)
        out.write(bytes([byte ^ 1]))
    call = play.wherry("restore", "--lazy", "--detach", "--image-path", image, "after", check=False)
    if call.returncode:
        assert "[image-corrupt]" in call.stderr  # found before all else was there
        return
    play.alive.append("after")
    wait_until(lambda: play.wherry.status("after") == "stopped", 30, "the container's end")
    wait_until(lambda: finished(play.wherry, "after"), 30, "the guard's end")
    killed = play.wherry.json("state", "after")["killed"]
    assert killed["reason"] == "image-corrupt"
    assert "digest" in killed["message"]
    assert "[image-corrupt]" in (play.wherry.root / "after" / "monitor.log").read_text()
    assert _result(play, "after") in ("", "ok")


def test_a_truncated_image_is_refused_before_anything(play: Stage, scratch: Path) -> None:
    image = scratch / "image.wherry"
    os.truncate(image, image.stat().st_size - 1000)
    result = play.wherry.fails("restore", "--lazy", "--detach", "--image-path", image, "after")
    assert "image-truncated" in result.stderr
    assert play.wherry.status("after") == "absent"


def test_lazy_needs_an_image(wherry: Wherry, scratch: Path) -> None:
    result = wherry.fails("create", "--lazy", "--bundle", scratch, "some")
    assert "[unsupported-option]" in result.stderr


HOLDER = """
import hashlib, os, sys, time
ballast = [os.urandom(1 << 20) for _ in range(24)]
digests = [hashlib.sha256(block).digest() for block in ballast]
open("/dev/shm/ready", "w").close()
while not os.path.exists("/dev/shm/go"):
    time.sleep(0.002)
right = [hashlib.sha256(block).digest() for block in ballast] == digests
print(right, file=open("/dev/shm/.result", "w"), flush=True)
os.rename("/dev/shm/.result", "/dev/shm/result")
time.sleep(1000)
"""


def _in_user_namespace(spec: dict[str, Any]) -> None:
    spec["linux"]["namespaces"].append({"type": "user"})
    mapping = [{"containerID": 0, "hostID": 100_000, "size": 65536}]
    spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = mapping


def _unchanged(_spec: dict[str, Any]) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "options"),
    [(_in_user_namespace, []), (_unchanged, ["--no-monitor"])],
    ids=["user namespace", "no monitor"],
)
def test_where_it_is_less_simple(
    wherry: Wherry, scratch: Path, change: Change, options: list[str]
) -> None:
    scratch.chmod(0o755)
    bundle = make_bundle(scratch / "b", ["python3", "-c", HOLDER], change)
    image = scratch / "image.wherry"
    wherry("run", "--detach", "--overlay", "--bundle", bundle, "before")
    wait_until((_shared(wherry, "before") / "ready").exists, 30, "the program")
    wherry("checkpoint", "--image-path", image, "before")
    wherry("delete", "before")
    wherry("create", "--bundle", bundle, "--restore", image, "--lazy", *options, "after")
    assert record(wherry, "after")["filling"]  # it did not have to be filled at once
    wherry("start", "after")
    wherry("exec", "after", "touch", "/dev/shm/go")
    result = _shared(wherry, "after") / "result"
    wait_until(result.exists, 30, "the result")
    assert result.read_text() == "True\n"
    wait_until(lambda: finished(wherry, "after"), 30, "the pager's end")
    wherry("delete", "--force", "after")


def _shared(wherry: Wherry, cid: str) -> Path:
    return Path(f"/proc/{wherry.json('state', cid)['pid']}/root/dev/shm")
