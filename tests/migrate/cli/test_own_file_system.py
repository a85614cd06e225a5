"""The file system that a container with an overlay has for itself, and what becomes of it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from runtime.kernel.loop import backing_file
from runtime.kernel.mount import fsconfig_create, fsmount, fsopen
from tests.support.command import WHERRY, Wherry
from tests.support.leftovers import loop_devices_of
from tests.support.wait import wait_until

NUMBERS = "cd /tmp && touch a b && rm a && mkdir c && touch c/d && stat -c %i b c c/d >numbers"
AGAIN = ("sh", "-c", "cd /tmp && stat -c %i b c c/d && cat numbers")


def start(wherry: Wherry, cid: str, script: str = NUMBERS) -> Path:
    """A container with some files; returns the directory of its overlay."""
    wherry("do", "--detach", "--id", cid, "--", "sh", "-c", f"{script} && exec sleep 1000")
    overlay = wherry.root / cid / "overlay"
    wait_until((overlay / "upper" / "tmp" / "numbers").exists, what="the files")
    return overlay


def aside(wherry: Wherry, *lines: str) -> tuple[int, str, str]:
    """Run shell commands in a mount namespace of their own; status, output and errors."""
    # Files, for a container keeps a pipe open.
    out, err = wherry.scratch / "out", wherry.scratch / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", "\n".join(lines)],
            env=wherry.environment(),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            timeout=60,
            check=False,
        )
    return done.returncode, out.read_text(), err.read_text()


def call(*words: str | Path) -> str:
    return shlex.join([str(WHERRY), *map(str, words)])


def test_it_is_small_and_goes_with_the_container(wherry: Wherry) -> None:
    overlay = start(wherry, "one")
    image = overlay.parent / "overlay.ext4"
    assert os.path.ismount(overlay)
    assert backing_file(overlay.stat().st_dev) == str(image)
    assert len(loop_devices_of(wherry.root)) == 1
    status = image.stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_blocks * 512 < 1 << 20 < status.st_size
    wherry("delete", "--force", "one")
    wait_until(lambda: not loop_devices_of(wherry.root), what="the end of the loop device")
    assert list(wherry.root.iterdir()) == []


def test_what_is_removed_inside_takes_no_space_outside(wherry: Wherry) -> None:
    script = "head -c 50000000 /dev/urandom >/tmp/big && sync /tmp/big && touch /tmp/numbers"
    image = start(wherry, "one", script).parent / "overlay.ext4"
    assert image.stat().st_blocks * 512 > 50_000_000
    wherry("exec", "one", "sh", "-c", "rm /tmp/big && sync -f /tmp")
    wait_until(lambda: image.stat().st_blocks * 512 < 2_000_000, what="the space to be free")
    wherry("delete", "--force", "one")


def test_deleted_while_everything_is_dirty(wherry: Wherry) -> None:
    start(wherry, "one", "head -c 100000000 /dev/zero >/tmp/big && touch /tmp/numbers")
    wherry("delete", "--force", "one")
    assert list(wherry.root.iterdir()) == []


@pytest.mark.parametrize("victim", ["init", "monitor"])
def test_nothing_of_it_stays_after_a_kill(wherry: Wherry, victim: str) -> None:
    start(wherry, "one")
    record = json.loads((wherry.root / "one" / "state.json").read_text())
    os.kill(record[victim]["pid"], signal.SIGKILL)
    wherry("delete", "--force", "one")
    wait_until(lambda: not loop_devices_of(wherry.root), what="the end of the loop device")
    assert list(wherry.root.iterdir()) == []


@pytest.mark.parametrize("hidden", ["/usr/sbin/mkfs.ext4", "/dev/loop-control"])
def test_a_host_without_them_does_without(wherry: Wherry, scratch: Path, hidden: str) -> None:
    """Everything works, only the numbers are others."""
    empty = scratch / "empty"
    empty.touch()
    image = scratch / "image"
    script = f"{NUMBERS} && touch /tmp/more && exec sleep 1000"
    status, output, errors = aside(
        wherry,
        f"mount --bind {empty} {hidden}",
        call("do", "--detach", "--id", "one", "--", "sh", "-c", script) + " >/dev/null",
        f"until [ -e {wherry.root}/one/overlay/upper/tmp/more ]; do sleep 0.02; done",
        call("checkpoint", "--image-path", image, "one"),
        call("restore", "--detach", "--image-path", image, "two") + f" >{scratch}/out",
        call("exec", "two", *AGAIN),
    )
    assert status == 0, errors
    assert len(output.split()) == 6
    record = json.loads((wherry.root / "two" / "state.json").read_text())
    assert record["overlay"]["hash_seed"] == ""
    assert sorted(path.name for path in (wherry.root / "two").glob("overlay*")) == ["overlay"]
    # Without numbers that it could choose, and back with them.
    for cid in ("one", "two"):
        wherry("delete", "--force", cid)
    wherry("restore", "--detach", "--image-path", image, "three")
    now, then = split(wherry("exec", "three", *AGAIN).stdout.split())
    assert now == then
    wherry("delete", "--force", "three")


def split(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    return words[:3], words[3:]


def test_numbers_stay_also_beside_the_first_container(wherry: Wherry, scratch: Path) -> None:
    image = scratch / "image"
    start(wherry, "one")
    wherry("checkpoint", "--leave-running", "--image-path", image, "one")
    wherry("restore", "--detach", "--image-path", image, "two")
    for cid in ("one", "two"):
        now, then = split(wherry("exec", cid, *AGAIN).stdout.split())
        assert now == then
        wherry("delete", "--force", cid)


def test_where_it_is_not_mounted_nothing_is_saved(wherry: Wherry, scratch: Path) -> None:
    """An image without the files of the overlay would be worse than none."""
    overlay = start(wherry, "one")
    checkpoint = call("checkpoint", "--image-path", scratch / "image", "one")
    status, _, errors = aside(wherry, f"umount {overlay}", f"{checkpoint}")
    assert status != 0
    assert "[overlay-elsewhere]" in errors
    assert not (scratch / "image").exists()
    assert wherry.status("one") == "running"
    wherry("delete", "--force", "one")


def test_device_numbers_stay_where_they_are_free(wherry: Wherry, scratch: Path) -> None:
    image = scratch / "image"
    ask = ("stat", "-c", "%d", "/", "/tmp", "/dev", "/dev/shm")
    # High numbers, which nobody else gets when the lower ones are given back.
    with contextlib.ExitStack() as held:
        highest = 0
        for _ in range(100):
            context = fsopen("tmpfs")
            held.callback(os.close, context)
            fsconfig_create(context)
            mount = fsmount(context)
            held.callback(os.close, mount)
            highest = max(highest, os.fstat(mount).st_dev)
        while True:
            start(wherry, "one")
            before = wherry("exec", "one", *ask).stdout
            if min(map(int, before.split())) > highest:
                break
            # Somebody gave a lower one back meanwhile.
            wherry("delete", "--force", "one")
    wherry("checkpoint", "--image-path", image, "one")
    wherry("delete", "one")
    wherry("restore", "--detach", "--image-path", image, "two")
    assert wherry("exec", "two", *ask).stdout == before
    # Taken now: then it is another one.
    wherry("restore", "--detach", "--image-path", image, "three")
    assert not {*wherry("exec", "three", *ask).stdout.split()} & {*before.split()}
    for cid in ("two", "three"):
        wherry("delete", "--force", cid)
