"""``wherry ship`` between two hosts: complete and verified, or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from formats.statefile import verify_file
from tests.migrate.images import write_image
from tests.support.lab import Lab
from tests.support.wait import wait_until

TAP = Path(__file__).with_name("tap.py")


@pytest.fixture
def image(lab: Lab) -> Path:
    """A state file in host a's home directory."""
    path = lab.home("a") / "job.wherry"
    write_image(path)
    return path


def _files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.wherry*"))


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


def _partial(lab: Lab) -> int:
    """Bytes that have come of the file on host b."""
    return sum(path.stat().st_size for path in lab.home("b").glob(".job.wherry.*.partial"))


def _slow_ship(lab: Lab, image: Path, *options: str) -> subprocess.Popen[str]:
    words = ("--json", "--bwlimit", "1M", *options, str(image), "b:")
    return lab.popen("a", "wherry", "ship", *words, stderr=-1, stdout=-1)


@pytest.mark.parametrize("least", [1, 1 << 20, 5 << 19])
def test_a_cut_connection_is_made_anew(lab: Lab, image: Path, least: int) -> None:
    call = _slow_ship(lab, image)
    wait_until(lambda: _partial(lab) >= least)
    lab.hang_up("b")
    answer, said = call.communicate(timeout=60)
    assert call.returncode == 0, said
    report = json.loads(answer)
    assert report["connections"] == 2
    # What was in the line when it was cut goes twice, nothing else does.
    assert report["sent_bytes"] < image.stat().st_size + (1 << 20)
    assert (lab.home("b") / "job.wherry").read_bytes() == image.read_bytes()
    assert _partial(lab) == 0


@pytest.mark.parametrize("who", ["ship TERM", "ship KILL", "ship INT", "receive KILL", "line"])
def test_the_next_ship_goes_on(lab: Lab, image: Path, who: str) -> None:
    call = _slow_ship(lab, image, "--retry-for", "0")
    wait_until(lambda: _partial(lab) >= 1 << 20)
    name, _, signal = who.partition(" ")
    if name == "line":
        lab.hang_up("b")
    else:
        lab.kill("b" if name == "receive" else "a", f"wherry {name}", signal)
    _, said = call.communicate(timeout=60)
    assert call.returncode != 0 and "Traceback" not in said
    wait_until(lambda: not lab.pids("b", "wherry receive"))
    there = _partial(lab)
    assert there >= 1 << 20 and not (lab.home("b") / "job.wherry").exists()
    report = lab.json("a", "wherry", "ship", "--json", image, "b:")
    assert report["sent_bytes"] == image.stat().st_size - there
    assert (lab.home("b") / "job.wherry").read_bytes() == image.read_bytes()
    assert _partial(lab) == 0 and report["connections"] == 1


@pytest.mark.parametrize("damage", ["flip", "noise", "longer", "link", "public"])
def test_what_was_kept_is_not_trusted(lab: Lab, image: Path, damage: str) -> None:
    root = bytes.fromhex(lab.json("a", "wherry", "ship", "--json", image, "b:one")["root"])
    data = bytearray(image.read_bytes()[: 3 << 19])
    partial = lab.home("b") / f".job.wherry.{root.hex()[:32]}.partial"
    if damage == "flip":
        data[1000] ^= 1
    elif damage == "noise":
        data = bytearray(os.urandom(len(data)))
    elif damage == "longer":
        data = bytearray(image.read_bytes() + b"more")
    partial.write_bytes(data)
    partial.chmod(0o644 if damage == "public" else 0o600)
    if damage == "link":
        partial.rename(lab.home("b") / "precious")
        partial.symlink_to(lab.home("b") / "precious")
    report = lab.json("a", "wherry", "ship", "--json", image, "b:")
    whole = image.stat().st_size
    if damage == "flip":  # seen when the rest was on its way already
        assert whole <= report["sent_bytes"] < 2 * whole
    else:
        assert report["sent_bytes"] == whole
    assert (lab.home("b") / "job.wherry").read_bytes() == image.read_bytes()
    if damage == "link":
        assert (lab.home("b") / "precious").read_bytes() == data


def test_what_was_kept_of_another_image_goes(lab: Lab, image: Path) -> None:
    partial = lab.home("b") / f".job.wherry.{'5' * 32}.partial"
    partial.touch(0o600)
    lab.run("a", "wherry", "ship", image, "b:")
    assert not partial.exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_last_word_is_lost(lab: Lab, image: Path, tmp_path: Path, when: str) -> None:
    """The file stands there, and the source does not know: it asks, and sends nothing again."""
    plan = {"message": "migrate-stored", "when": when, "what": "cut"}
    (tmp_path / "plan").write_text(json.dumps(plan))
    through = f"{sys.executable} {TAP} {tmp_path} -- wherry"
    report = lab.json("a", "wherry", "ship", "--json", "--remote-command", through, image, "b:")
    assert not (tmp_path / "plan").exists()
    assert report["sent_bytes"] == image.stat().st_size
    assert report["connections"] == (2 if when == "before" else 1)
    assert (lab.home("b") / "job.wherry").read_bytes() == image.read_bytes()


def test_two_ships_to_one_name(lab: Lab, image: Path) -> None:
    calls = [
        lab.popen("a", "wherry", "ship", "--force", "--json", image, "b:one.wherry", stdout=-1)
        for _ in range(2)
    ]
    answers = [json.loads(call.communicate(timeout=60)[0]) for call in calls]
    assert answers[0]["root"] == answers[1]["root"]
    assert (lab.home("b") / "one.wherry").read_bytes() == image.read_bytes()
    assert os.listdir(lab.home("b")).count("one.wherry") == 1
