"""State files: complete under their name or not there at all, and private from the first byte."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from formats.errors import ImageCorruptError, ImageError, ImageWriteError
from formats.statefile import StateFile, open_image, verify_file
from tests.formats.samples import image_bytes, write_image
from tests.support.sources import ROOT


@pytest.fixture(params=["unnamed", "named"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With O_TMPFILE, and on a file system that has none."""
    if request.param == "named":
        real_open = os.open

        def without_tmpfile(path: str, flags: int, *args: int, **kwargs: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return real_open(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", without_tmpfile)
    return str(request.param)


def test_it_appears_when_committed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "web.wherry"
    with StateFile(path) as file:
        summary = write_image(file)
        assert not path.exists()
        assert len(list(tmp_path.iterdir())) == (0 if kind == "unnamed" else 1)
        file.commit()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == image_bytes()
    assert verify_file(path) == summary
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_private_from_its_first_byte(tmp_path: Path, kind: str) -> None:
    old = os.umask(0)
    try:
        with StateFile(tmp_path / "web.wherry") as file:
            assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
            file.commit()
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "web.wherry").stat().st_mode) == 0o600


def test_without_a_commit_nothing_stays(tmp_path: Path, kind: str) -> None:
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(KeyboardInterrupt), StateFile(tmp_path / "web.wherry") as file:
        write_image(file)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    assert os.listdir("/proc/self/fd") == descriptors


def test_an_older_file_stays_until_the_new_one_is_complete(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "web.wherry"
    path.write_bytes(b"old")
    with StateFile(path) as file:
        write_image(file)
    assert path.read_bytes() == b"old"
    with StateFile(path) as file:
        write_image(file)
        file.commit()
    assert path.read_bytes() == image_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_a_symbolic_link_is_replaced_not_followed(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    path = tmp_path / "web.wherry"
    path.symlink_to(victim)
    with StateFile(path) as file:
        write_image(file)
        file.commit()
    assert victim.read_bytes() == b"untouched"
    assert not path.is_symlink()


def test_a_name_of_the_greatest_length(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x" * 255)
    with StateFile(path) as file:
        write_image(file)
        file.commit()
    verify_file(path)


def test_a_relative_path_survives_a_change_of_directory(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with StateFile("web.wherry") as file:
        write_image(file)
        monkeypatch.chdir("/")
        file.commit()
    verify_file(tmp_path / "web.wherry")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/web.wherry", "cannot create the image: No such file or directory"),
        ("file/web.wherry", "cannot create the image: Not a directory"),
        ("folder", "cannot create the image: Is a directory"),
    ],
)
def test_places_where_no_file_can_be(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(ImageWriteError, match=f"{name}: {words}"), StateFile(tmp_path / name):
        pass
    assert os.listdir("/proc/self/fd") == descriptors


def test_a_target_that_became_a_directory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "web.wherry"
    with pytest.raises(ImageWriteError, match="cannot complete"), StateFile(path) as file:
        write_image(file)
        path.mkdir()
        file.commit()
    assert list(tmp_path.iterdir()) == [path]


FILL_A_SMALL_DISK = """
import sys
from formats.errors import ImageWriteError
from formats.statefile import StateFile
from tests.formats.samples import half_compressible, write_image

chunks = [(1, n << 20, ((n << 20, 1 << 20),), half_compressible(1 << 20, n)) for n in range(8)]
try:
    with StateFile(sys.argv[1] + "/web.wherry") as file:
        write_image(file, chunks=chunks)
        file.commit()
except ImageWriteError as exc:
    print(exc.reason, exc)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    # In a mount namespace of its own, so that the disk is gone with the process.
    script = (
        'mount -t tmpfs -o size=1m none "$1" && "$2" -c "$3" "$1"; find "$1" -mindepth 1; df "$1"'
    )
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", tmp_path, sys.executable, FILL_A_SMALL_DISK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    first, *rest = result.stdout.splitlines()
    assert first == (
        f"disk-full {tmp_path}/web.wherry: cannot write the image: No space left on device"
    )
    assert rest[0].startswith("Filesystem"), "find saw something left behind"
    assert rest[1].split()[2] == "0", "blocks in use"


WRITE_FOR_EVER = """
import sys
from formats.statefile import StateFile

with StateFile(sys.argv[1]) as file:
    file.write(b"x" * 100000)
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, tmp_path / "web.wherry"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


# Reading


def test_verify_names_the_file_and_the_fault(tmp_path: Path) -> None:
    path = tmp_path / "web.wherry"
    data = bytearray(image_bytes())
    path.write_bytes(data[:-1])
    with pytest.raises(ImageCorruptError, match=r"^web\.wherry: the image ends at byte"):
        verify_file(path)
    data[-600] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageCorruptError, match=r"^web\.wherry: "):
        verify_file(path)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="missing: cannot open the image: No such file") as caught:
        open_image(tmp_path / "missing")
    assert caught.value.reason == "image-unreadable"
    with pytest.raises(ImageError, match="Is a directory"):
        verify_file(tmp_path)
