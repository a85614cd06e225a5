"""``wherry ship`` between two hosts: complete and verified, or nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from formats.statefile import verify_file
from tests.migrate.images import write_image
from tests.support.lab import Lab
from tests.support.wait import wait_until


@pytest.fixture
def image(lab: Lab) -> Path:
    """A state file in host a's home directory."""
    path = lab.home("a") / "job.wherry"
    write_image(path)
    return path


def _files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.wherry*"))


def _hidden(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name.startswith(".j"))


@pytest.mark.parametrize(
    ("path", "lands"),
    [
        ("", "job.wherry"),
        (".", "job.wherry"),
        ("new.wherry", "new.wherry"),
        ("~/new.wherry", "new.wherry"),
        ("sub", "sub/job.wherry"),
        ("sub/", "sub/job.wherry"),
        ("sub/other name.wherry", "sub/other name.wherry"),
        ("{home}/abs.wherry", "abs.wherry"),
    ],
)
def test_the_path_is_as_for_scp(lab: Lab, image: Path, path: str, lands: str) -> None:
    home = lab.home("b")
    (home / "sub").mkdir()
    report = lab.json("a", "wherry", "ship", "--json", image, f"b:{path.format(home=home)}")
    assert _files(home) == [lands]
    assert report["path"] == str(home / lands)
    assert report["size_bytes"] == image.stat().st_size
    assert (home / lands).read_bytes() == image.read_bytes()
    assert (home / lands).stat().st_mode & 0o777 == 0o600
    assert verify_file(home / lands).root.hex() == report["root"]


def test_the_sentence_tells_size_and_rate(lab: Lab, image: Path) -> None:
    done = lab.run("a", "wherry", "ship", image, "b:")
    assert done.stdout.startswith(f"b:{lab.home('b')}/job.wherry  3.0 MiB")
    assert "/s" in done.stdout and done.stderr == ""


def test_an_existing_file_stays(lab: Lab, image: Path) -> None:
    there = lab.home("b") / "job.wherry"
    there.write_text("precious")
    done = lab.run("a", "wherry", "ship", image, "b:", check=False)
    assert done.returncode == 30 and "exists" in done.stderr and "--force" in done.stderr
    assert there.read_text() == "precious"
    lab.run("a", "wherry", "ship", "--force", image, "b:")
    assert there.read_bytes() == image.read_bytes()


@pytest.mark.parametrize(
    ("path", "reason"),
    [("missing/x.wherry", "no-such-directory"), ("/dev/null", "not-a-file")],
)
def test_places_that_cannot_be(lab: Lab, image: Path, path: str, reason: str) -> None:
    done = lab.run("a", "wherry", "ship", "--force", image, f"b:{path}", check=False)
    assert done.returncode == 30 and reason in done.stderr


def test_a_full_disk_is_told_before_anything_is_sent(lab: Lab, image: Path) -> None:
    small = lab.home("b") / "small"
    small.mkdir()
    lab.run("b", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small)
    try:
        done = lab.run("a", "wherry", "ship", image, f"b:{small}/", check=False)
        assert done.returncode == 30 and "disk-full" in done.stderr
        assert lab.run("b", "ls", "-A", small).stdout == ""
    finally:
        lab.run("b", "umount", small)


def test_a_disk_that_fills_up_on_the_way(lab: Lab, image: Path) -> None:
    small = lab.home("b") / "small"
    small.mkdir()
    size = image.stat().st_size + (256 << 10)
    lab.run("b", "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", small)
    try:
        call = lab.popen(
            "a", "wherry", "ship", "--bwlimit", "1M", image, f"b:{small}/", stderr=-1, stdout=-1
        )
        # Only now: before the first bytes have arrived, the full disk would be refused up front.
        wait_until(lambda: _used_blocks(lab, small) > 0)
        filler = lab.run("b", "dd", "if=/dev/zero", f"of={small}/filler", "bs=64k", check=False)
        assert filler.returncode != 0
        _, said = call.communicate(timeout=60)
        assert call.returncode != 0
        assert "No space left on device" in said and "Traceback" not in said
        assert lab.run("b", "ls", "-A", small).stdout == "filler\n"
    finally:
        lab.run("b", "umount", small)


def _used_blocks(lab: Lab, directory: Path) -> int:
    total, free = lab.run("b", "stat", "-f", "-c", "%b %f", directory).stdout.split()
    return int(total) - int(free)


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "foreign"])
def test_a_damaged_file_never_lands(lab: Lab, image: Path, damage: str) -> None:
    data = bytearray(image.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "cut":
        data = data[: len(data) * 2 // 3]
    elif damage == "grow":
        data += b"tail"
    else:
        data = bytearray(b"#!/bin/sh\necho no image\n")
    image.write_bytes(data)
    done = lab.run("a", "wherry", "ship", image, "b:", check=False)
    assert done.returncode != 0
    assert done.stderr.startswith("wherry: ") and "job.wherry" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 2
    assert _files(lab.home("b")) == []


def test_what_is_no_file(lab: Lab, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        done = lab.run("a", "wherry", "ship", path, "b:", check=False)
        assert done.returncode == 10 and str(path) in done.stderr


def test_a_cut_connection_leaves_nothing(lab: Lab, image: Path) -> None:
    call = lab.popen("a", "wherry", "ship", "--bwlimit", "1M", image, "b:", stderr=-1, stdout=-1)
    wait_until(lambda: lab.pids("b", "wherry receive"))
    lab.hang_up("b")
    _, said = call.communicate(timeout=60)
    assert call.returncode == 41 and "Traceback" not in said
    wait_until(lambda: not lab.pids("b", "wherry receive"))
    assert _files(lab.home("b")) == [] and _hidden(lab.home("b")) == []


@pytest.mark.parametrize("signal", ["KILL", "TERM", "INT"])
def test_a_killed_ship_leaves_nothing(lab: Lab, image: Path, signal: str) -> None:
    call = lab.popen("a", "wherry", "ship", "--bwlimit", "1M", image, "b:", stderr=-1, stdout=-1)
    wait_until(lambda: lab.pids("b", "wherry receive"))
    lab.kill("a", "wherry ship", signal)
    _, said = call.communicate(timeout=60)
    assert call.returncode != 0 and "Traceback" not in said
    wait_until(lambda: not lab.pids("b", "wherry receive"))
    assert _files(lab.home("b")) == [] and _hidden(lab.home("b")) == []


def test_a_killed_receive_leaves_nothing(lab: Lab, image: Path) -> None:
    call = lab.popen("a", "wherry", "ship", "--bwlimit", "1M", image, "b:", stderr=-1, stdout=-1)
    wait_until(lambda: lab.pids("b", "wherry receive"))
    lab.kill("b", "wherry receive")
    _, said = call.communicate(timeout=60)
    assert call.returncode == 41 and "Traceback" not in said
    assert _files(lab.home("b")) == [] and _hidden(lab.home("b")) == []


def test_two_ships_to_one_name(lab: Lab, image: Path) -> None:
    calls = [
        lab.popen("a", "wherry", "ship", "--force", "--json", image, "b:one.wherry", stdout=-1)
        for _ in range(2)
    ]
    answers = [json.loads(call.communicate(timeout=60)[0]) for call in calls]
    assert answers[0]["root"] == answers[1]["root"]
    assert (lab.home("b") / "one.wherry").read_bytes() == image.read_bytes()
    assert os.listdir(lab.home("b")).count("one.wherry") == 1
