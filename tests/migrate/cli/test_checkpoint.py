"""Checkpoint and restore through the command line: what goes wrong, and what may differ."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import bind, make_bundle
from tests.support.command import Wherry
from tests.support.wait import wait_until

# Counts in memory, and writes down every step where the host sees it.
COUNTER = """
import os, sys, time
ballast = os.urandom(int(sys.argv[2]) << 20)
step = 0
while True:
    step += 1
    with open(sys.argv[1], "a") as file:
        file.write(f"{step}\\n")
    time.sleep(0.005)
"""


def counter_bundle(
    scratch: Path,
    name: str = "b",
    mebibytes: int = 1,
    change: Callable[[Any], object] | None = None,
) -> Path:
    def both(spec: dict[str, Any]) -> None:
        bind(spec, scratch, "/data")
        if change is not None:
            change(spec)

    command = ["python3", "-c", COUNTER, "/tmp/steps", str(mebibytes)]
    return make_bundle(scratch / name, command, both)


def named(hostname: str) -> Callable[[Any], object]:
    return lambda spec: spec.update(hostname=hostname)


def steps(wherry: Wherry, cid: str) -> list[int]:
    text = wherry("exec", cid, "cat", "/tmp/steps", check=False).stdout
    return [int(line) for line in text.split()]


def assert_goes_on(wherry: Wherry, cid: str) -> None:
    """It runs, and no step was lost or done twice."""
    before = len(steps(wherry, cid))
    wait_until(lambda: len(steps(wherry, cid)) > before)
    seen = steps(wherry, cid)
    assert seen == list(range(1, len(seen) + 1))


@pytest.fixture
def counter(wherry: Wherry, scratch: Path) -> Iterator[str]:
    bundle = counter_bundle(scratch)
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "one")
    wait_until(lambda: len(steps(wherry, "one")) > 3)
    yield "one"
    wherry("delete", "--force", "one")


@pytest.fixture
def image(wherry: Wherry, scratch: Path, counter: str) -> Path:
    path = scratch / "image.wherry"
    wherry("checkpoint", "--image-path", path, counter)
    return path


def test_a_checkpoint_stops_and_the_record_stays(
    wherry: Wherry, scratch: Path, counter: str
) -> None:
    path = scratch / "image.wherry"
    report = wherry.json("checkpoint", "--json", "--image-path", path, counter)
    assert report["image_bytes"] == path.stat().st_size
    assert report["processes"] == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert wherry.status(counter) == "stopped"
    assert wherry("wait", counter, check=False).returncode == 137
    wherry("image", "verify", path)


def test_leave_running_leaves_it_running(wherry: Wherry, scratch: Path, counter: str) -> None:
    for number in range(3):
        wherry("checkpoint", "--leave-running", "--image-path", scratch / f"{number}", counter)
        assert wherry.status(counter) == "running"
    assert_goes_on(wherry, counter)


def test_a_paused_container_stays_paused(wherry: Wherry, scratch: Path, counter: str) -> None:
    wherry("pause", counter)
    wherry("checkpoint", "--leave-running", "--image-path", scratch / "image", counter)
    assert wherry.status(counter) == "paused"
    wherry("resume", counter)
    assert_goes_on(wherry, counter)


def test_a_restored_container_waits_for_start(wherry: Wherry, scratch: Path, image: Path) -> None:
    wherry("create", "--restore", image, "--pid-file", scratch / "pid", "two")
    state = wherry.json("state", "two")
    assert state["status"] == "created"
    assert int((scratch / "pid").read_text()) == state["pid"]
    record = json.loads((wherry.root / "two" / "state.json").read_text())
    assert record["restored_from"]["container_id"] == "one"
    wherry("start", "two")
    assert wherry.status("two") == "running"
    assert_goes_on(wherry, "two")
    wherry("kill", "two", "KILL")
    assert wherry("wait", "two", check=False).returncode == 137
    wherry("delete", "two")


def test_a_volume_is_the_hosts_before_and_after(wherry: Wherry, scratch: Path) -> None:
    volume = scratch / "volume"
    volume.mkdir()
    script = f"exec python3 -c '{COUNTER}' /data/steps 1"
    wherry("do", "-d", "--id", "one", "-v", f"{volume}:/data", "--", "sh", "-c", script)
    path = volume / "steps"
    wait_until(lambda: path.exists() and path.stat().st_size > 20)
    before = path.stat()
    wherry("checkpoint", "--image-path", scratch / "image", "one")
    seen = path.read_text()
    wherry("delete", "one")
    wherry("restore", "--detach", "--image-path", scratch / "image", "two")
    wait_until(lambda: path.stat().st_size > len(seen))
    wherry("delete", "--force", "two")
    assert path.stat().st_ino == before.st_ino
    lines = [int(line) for line in path.read_text().split()]
    assert lines == list(range(1, len(lines) + 1))


def test_one_image_many_containers_with_names_of_their_own(
    wherry: Wherry, scratch: Path, image: Path
) -> None:
    names = ("two", "three", "four")
    processes = []
    for name in names:
        bundle = counter_bundle(scratch, name, change=named(name))
        call = ("restore", "--image-path", image, "--bundle", bundle, "--detach", name)
        processes.append(wherry.popen(*call))
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    for name in names:
        assert wherry("exec", name, "hostname").stdout.strip() == name
        assert_goes_on(wherry, name)
    for name in names:
        wherry("delete", "--force", name)


def test_restore_in_the_foreground_stands_in_for_the_program(wherry: Wherry, image: Path) -> None:
    process = wherry.popen("restore", "--image-path", image, "two")
    wait_until(lambda: wherry.status("two") == "running")
    assert_goes_on(wherry, "two")
    wherry("kill", "two", "KILL")
    assert process.wait(20) == 137
    assert wherry.status("two") == "absent"


def test_a_restored_container_can_be_saved_again(
    wherry: Wherry, scratch: Path, image: Path
) -> None:
    for number in range(3):
        cid = f"round-{number}"
        wherry("restore", "--image-path", image, "--detach", cid)
        assert_goes_on(wherry, cid)
        image = scratch / cid
        wherry("checkpoint", "--image-path", image, cid)
        wherry("delete", cid)


def test_what_may_differ_is_applied(wherry: Wherry, scratch: Path, image: Path) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["hostname"] = "elsewhere"
        spec["annotations"] = {"moved": "yes"}
        spec["linux"]["resources"] = {
            "devices": spec["linux"]["resources"]["devices"],
            "pids": {"limit": 77},
        }
        bind(spec, scratch, "/more")

    bundle = counter_bundle(scratch, "other", change=change)
    wherry("restore", "--image-path", image, "--bundle", bundle, "--detach", "two")
    assert wherry("exec", "two", "hostname").stdout == "elsewhere\n"
    assert wherry("exec", "two", "ls", "/more/image.wherry").returncode == 0
    assert wherry.json("state", "two")["annotations"] == {"moved": "yes"}
    event = json.loads(wherry("events", "--stats", "two").stdout)
    assert event["data"]["pids"]["limit"] == 77
    assert_goes_on(wherry, "two")
    wherry("delete", "--force", "two")


@pytest.mark.parametrize(
    ("change", "reason", "path"),
    [
        (lambda s: s["mounts"].pop(), "spec-mount-removed", "mounts[/data]"),
        (lambda s: s["root"].update(readonly=True), "spec-root-readonly", "root.readonly"),
        (lambda s: s["process"].update(user={"uid": 5, "gid": 5}), "spec-process", "process.user"),
        (lambda s: s["linux"]["namespaces"].pop(), "spec-namespaces", "linux.namespaces"),
    ],
)
def test_what_may_not_differ_is_refused_with_its_path(
    wherry: Wherry,
    scratch: Path,
    image: Path,
    change: Callable[[Any], object],
    reason: str,
    path: str,
) -> None:
    bundle = counter_bundle(scratch, "other", change=change)
    result = wherry.fails("restore", "--image-path", image, "--bundle", bundle, "two")
    assert result.returncode == 30
    assert f"[{reason}]" in result.stderr
    assert path in result.stderr
    assert wherry.status("two") == "absent"


def test_bad_images_are_one_clear_line(wherry: Wherry, scratch: Path, image: Path) -> None:
    data = image.read_bytes()
    dice = random.Random(3)
    damaged = {
        "missing": None,
        "empty": b"",
        "foreign": b"\x7fELF" + bytes(1000),
        "short": data[: len(data) // 2],
        "almost": data[:-1],
    }
    for number in range(4):
        place = dice.randrange(len(data))
        flipped = bytes([data[place] ^ (1 << dice.randrange(8))])
        damaged[f"flip{number}"] = data[:place] + flipped + data[place + 1 :]
    for name, content in damaged.items():
        path = scratch / f"{name}.wherry"
        if content is not None:
            path.write_bytes(content)
        result = wherry.fails("restore", "--image-path", path, "--detach", "two")
        assert result.returncode in (10, 11, 12), (name, result.stderr)
        assert len(result.stderr.splitlines()) == 1, (name, result.stderr)
        assert wherry.status("two") == "absent"


def test_a_second_container_under_the_id_is_refused(
    wherry: Wherry, scratch: Path, counter: str
) -> None:
    path = scratch / "image"
    wherry("checkpoint", "--leave-running", "--image-path", path, counter)
    assert wherry.fails("restore", "--image-path", path, counter).returncode == 23
    assert_goes_on(wherry, counter)


def test_a_directory_that_is_missing_harms_nobody(
    wherry: Wherry, scratch: Path, counter: str
) -> None:
    wherry.fails("checkpoint", "--image-path", scratch / "no" / "image", counter)
    assert wherry.status(counter) == "running"
    assert_goes_on(wherry, counter)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_checkpoint_can_be_interrupted_at_any_moment(
    wherry: Wherry, scratch: Path, signum: int
) -> None:
    bundle = counter_bundle(scratch, mebibytes=100)
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "one")
    wait_until(lambda: len(steps(wherry, "one")) > 3)
    dice = random.Random(signum)
    images = scratch / "images"
    images.mkdir()
    for _ in range(6):
        with (scratch / "err").open("wb") as err:
            process = wherry.popen(
                "checkpoint", "--image-path", images / "image", "one", stderr=err
            )
            deadline = time.monotonic() + dice.uniform(0.06, 0.4)
            wait_until(lambda: time.monotonic() >= deadline)  # noqa: B023
            process.send_signal(signum)
            status = process.wait(60)
        if status == 0:
            break  # it was faster
        said = (scratch / "err").read_text()
        assert "Traceback" not in said or status == -signum, said
        assert status in (128 + signum, -signum)
        # Killed outright, the worker may need a moment; then all is as before.
        wait_until(lambda: wherry.status("one") in ("running", "stopped"))
        if wherry.status("one") == "stopped":
            assert (images / "image").exists()  # it had come so far that it was complete
            break
        wait_until(lambda: os.listdir(images) == [])
        assert_goes_on(wherry, "one")
    wherry("delete", "--force", "one")


def test_a_killed_worker_leaves_the_workload_running(wherry: Wherry, scratch: Path) -> None:
    bundle = counter_bundle(scratch, mebibytes=200)
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "one")
    wait_until(lambda: len(steps(wherry, "one")) > 3)
    process = wherry.popen(
        "checkpoint", "--leave-running", "--image-path", scratch / "image", "one", stderr=-1
    )
    wait_until(lambda: wherry.status("one") == "paused" or process.poll() is not None)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    worker = children.read_text().split() if children.exists() else []
    if worker:
        os.kill(int(worker[0]), signal.SIGKILL)
    process.communicate(timeout=60)
    wait_until(lambda: wherry.status("one") == "running")
    assert_goes_on(wherry, "one")
    wherry("delete", "--force", "one")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_restore_can_be_interrupted_at_any_moment(
    wherry: Wherry, scratch: Path, signum: int
) -> None:
    bundle = counter_bundle(scratch, mebibytes=100)
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "one")
    wait_until(lambda: len(steps(wherry, "one")) > 3)
    wherry("checkpoint", "--image-path", scratch / "image", "one")
    dice = random.Random(signum)
    for _ in range(6):
        with (scratch / "err").open("wb") as err:
            process = wherry.popen(
                "restore", "--image-path", scratch / "image", "--detach", "two", stderr=err
            )
            deadline = time.monotonic() + dice.uniform(0.06, 0.4)
            wait_until(lambda: time.monotonic() >= deadline)  # noqa: B023
            process.send_signal(signum)
            status = process.wait(60)
        said = (scratch / "err").read_text()
        assert status in (0, 128 + signum, -signum), said
        if status == 128 + signum:
            assert said == ""
            assert wherry.status("two") == "absent"
        wherry("delete", "--force", "two")
        assert wherry.status("two") == "absent"
    wherry("restore", "--image-path", scratch / "image", "--detach", "two")
    assert_goes_on(wherry, "two")
    for cid in ("one", "two"):
        wherry("delete", "--force", cid)


def test_a_full_disk_harms_nobody(wherry: Wherry, scratch: Path) -> None:
    bundle = counter_bundle(scratch, mebibytes=20)
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "one")
    wait_until(lambda: len(steps(wherry, "one")) > 3)
    small = scratch / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=True)
    try:
        result = wherry.fails("checkpoint", "--image-path", small / "image", "one")
        assert "No space left" in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert list(small.iterdir()) == []
        assert wherry.status("one") == "running"
        assert_goes_on(wherry, "one")
    finally:
        subprocess.run(["umount", small], check=True)
    wherry("delete", "--force", "one")
