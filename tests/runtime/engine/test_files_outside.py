"""Descriptors and mounts that come from outside: named at a checkpoint, given anew at a restore."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.kernel.aside import MountHand
from runtime.kernel.mount import AT_FDCWD, OPEN_TREE_CLONE, move_mount, open_tree
from runtime.kernel.proc_fdinfo import fdinfo
from tests.support.bundles import make_bundle
from tests.support.command import WHERRY, Wherry
from tests.support.wait import wait_until

Say = Callable[[str], None]


def _pid(wherry: Wherry, cid: str) -> int:
    return int(json.loads(wherry("state", cid).stdout)["pid"])


@pytest.fixture
def start(wherry: Wherry, scratch: Path) -> Iterator[Callable[..., Say]]:
    """Run a command whose descriptor 3 is a pipe and 4 a file; gives what writes to the pipe."""
    ends: list[int] = []

    def run(out: Path, *args: str | Path) -> Say:
        reader, writer = os.pipe()
        ends.append(writer)
        script = f'exec 3<&0 4>>{out} </dev/null; exec "$0" "$@"'
        with (scratch / "log").open("ab") as log:
            result = subprocess.run(
                ["sh", "-c", script, str(WHERRY), *map(str, args)],
                stdin=reader,
                stdout=log,
                stderr=log,
                env=wherry.environment(),
                check=False,
                timeout=60,
            )
        os.close(reader)
        wherry.note_cgroups()
        assert result.returncode == 0, (scratch / "log").read_text()
        return lambda text: wrote(writer, text)

    def wrote(writer: int, text: str) -> None:
        os.write(writer, text.encode())

    yield run
    for end in ends:
        os.close(end)


@pytest.mark.timeout(120)
def test_descriptors_are_given_anew(
    wherry: Wherry, scratch: Path, start: Callable[..., Say]
) -> None:
    first, second, image = scratch / "first", scratch / "second", scratch / "image"
    script = "while read line <&3; do echo got $line >&4; done"
    bundle = make_bundle(scratch / "bundle", script)
    args = ("--bundle", bundle, "--overlay", "--preserve-fds", "2", "before")
    start(first, "run", "--detach", *args)("one\n")
    wait_until(lambda: first.read_text() == "got one\n", 20, "an answer")
    pid = _pid(wherry, "before")
    pipe = f"pipe[{os.stat(f'/proc/{pid}/fd/3').st_ino}]"
    file = f"file[{fdinfo(pid, 4).mount_id:x}:{os.stat(f'/proc/{pid}/fd/4').st_ino:x}]"

    refused = wherry.fails("checkpoint", "--image-path", image, "before")
    assert "[pipe-outside]" in refused.stderr and "fd 4" in refused.stderr
    names = ("--external", pipe, "--external", file)
    wherry("checkpoint", "--image-path", image, *names, "before")
    wherry("delete", "before")

    lacking = wherry.fails("restore", "--detach", "--image-path", image, "after")
    assert "[external-missing]" in lacking.stderr
    given = ("--inherit-fd", f"fd[3]:{pipe}", "--inherit-fd", f"fd[4]:{file}")
    say = start(second, "restore", "--detach", "--image-path", image, *given, "after")
    say("two\n")
    wait_until(lambda: second.read_text() == "got two\n", 20, "an answer")
    assert first.read_text() == "got one\n"
    wherry("delete", "--force", "after")


@pytest.mark.timeout(120)
def test_a_mount_is_given_anew(wherry: Wherry, scratch: Path) -> None:
    image, here, there = scratch / "image", scratch / "here", scratch / "there"
    for directory, text in ((here, "first\n"), (there, "second\n")):
        directory.mkdir()
        (directory / "file").write_text(text)
    script = "trap 'cat /mnt/file >/tmp/found' USR1; while :; do sleep 1000 & wait; done"
    bundle = make_bundle(scratch / "bundle", script)
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "before")
    pid = _pid(wherry, "before")
    source = open_tree(AT_FDCWD, here, OPEN_TREE_CLONE)
    target = os.open(f"/proc/{pid}/root/mnt", os.O_PATH)
    with MountHand(f"/proc/{pid}/ns/mnt") as hand:
        hand.do(move_mount, source, target)
    os.close(source)
    os.close(target)

    refused = wherry.fails("checkpoint", "--image-path", image, "before")
    assert "[mount-device]" in refused.stderr
    wherry("checkpoint", "--image-path", image, "--external", "mnt[/mnt]:data", "before")
    wherry("delete", "before")
    lacking = wherry.fails("restore", "--detach", "--image-path", image, "after")
    assert "[external-missing]" in lacking.stderr
    given = ("--external", f"mnt[data]:{there}")
    wherry("restore", "--detach", "--image-path", image, *given, "after")
    wherry("kill", "after", "USR1")
    found = Path(f"/proc/{_pid(wherry, 'after')}/root/tmp/found")
    wait_until(lambda: found.exists() and found.read_text() == "second\n", 20, "the other file")
    wherry("delete", "--force", "after")
