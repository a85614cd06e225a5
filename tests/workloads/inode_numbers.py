"""Device and inode numbers of files, directories, links and nodes, of old and of new ones."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from act import ready_then_go, workload

Identity = tuple[int, int]


def make_files(top: Path) -> None:
    """All kinds, with gaps in their numbers, and directories younger than what is in them."""
    for number in range(40):
        (top / f"file{number}").write_text(f"{number}\n")
    for number in range(0, 40, 3):
        (top / f"file{number}").unlink()
    (top / "one" / "two").mkdir(parents=True)
    (top / "late").mkdir()
    for number in (1, 20, 38):
        (top / f"file{number}").rename(top / "late" / f"moved{number}")
    (top / "one").rename(top / "late" / "one")
    os.link(top / "file4", top / "late" / "one" / "linked")
    os.link(top / "file5", top / "also5")
    (top / "symbolic").symlink_to("file4")
    os.mkfifo(top / "late" / "fifo")
    (top / "empty").touch()
    (top / "file7").unlink()


def identity(path: Path) -> Identity:
    status = path.lstat()
    return status.st_ino, status.st_nlink


def identities(tops: list[Path]) -> dict[Path, Identity]:
    """Every file below the directories, and they themselves."""
    found = {}
    for top in tops:
        for path in (top, *top.rglob("*")):
            found[path] = identity(path)
    return found


with (
    workload() as control,
    tempfile.TemporaryDirectory(dir=control) as own,
    tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
):
    tops = [Path(own), Path(memory)]
    for top in tops:
        make_files(top)
    script = Path(__file__)
    script.chmod(script.stat().st_mode & 0o7777)  # in an overlay: copies it up
    others = [
        Path("/dev"),
        Path("/dev/null"),
        Path("/dev/fd"),
        Path("/dev/shm"),
        script,
        script.parent,
        Path("/"),
        Path("/etc"),
        Path("/etc/passwd"),
    ]
    before = identities(tops) | {path: identity(path) for path in others}
    held = {path: path.open() for top in tops for path in top.glob("file*")}

    ready_then_go()

    after = identities(tops) | {path: identity(path) for path in others}
    changed = {path: (before.get(path), found) for path, found in after.items()}
    assert after == before, {path: pair for path, pair in changed.items() if len({*pair}) > 1}
    for path, file in held.items():
        assert os.path.samestat(os.fstat(file.fileno()), path.stat()), path
    for top in tops:
        # New files do not take what is in use.
        (top / "new").mkdir()
        for number in range(40):
            (top / "new" / str(number)).touch()
        numbers = [path.lstat().st_ino for path in top.rglob("*") if path.lstat().st_nlink == 1]
        assert len(numbers) == len(set(numbers))
