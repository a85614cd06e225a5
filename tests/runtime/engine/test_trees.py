"""Trees of an image cannot put anything outside of the directory they are meant for."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from formats.records.files import Inode, Tree
from runtime.engine.inode_numbers import TmpfsNumbers
from runtime.engine.restore_trees import open_tmpfs
from runtime.engine.trees import TreeRestore
from runtime.errors import RestoreError


def _inode(path: str, mode: int, target: str = "") -> Inode:
    return Inode(tree_id=1, path=path, mode=mode, uid=0, gid=0, mtime_ns=0, target=target)


def _make(top: Path, *inodes: Inode) -> None:
    restore = TreeRestore(os.open(top, os.O_RDONLY | os.O_DIRECTORY), list(inodes))
    try:
        restore.make()
        restore.finish()
    finally:
        restore.close()


def test_makes_what_it_is_told(tmp_path: Path) -> None:
    directory, link = _inode("d", stat.S_IFDIR | 0o750), _inode("d/l", stat.S_IFLNK, target="f")
    _make(tmp_path, directory, _inode("d/f", stat.S_IFREG | 0o640), link)
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "d/l").stat().st_mode) == 0o640


@pytest.mark.parametrize("path", ["../out", "d/../../out", "/out", "d//out", "..", "d/."])
def test_refuses_a_path_that_leads_out(tmp_path: Path, path: str) -> None:
    top = tmp_path / "top"
    top.mkdir()
    with pytest.raises(RestoreError) as caught:
        _make(top, _inode("d", stat.S_IFDIR | 0o755), _inode(path, stat.S_IFREG | 0o644))
    assert caught.value.reason == "image-path"
    assert [entry.name for entry in tmp_path.iterdir()] == ["top"]


def test_does_not_follow_a_link_of_its_own(tmp_path: Path) -> None:
    top, outside = tmp_path / "top", tmp_path / "outside"
    top.mkdir()
    outside.mkdir()
    link = _inode("d", stat.S_IFLNK, target=str(outside))
    with pytest.raises((RestoreError, OSError)):
        _make(top, link, _inode("d/f", stat.S_IFREG | 0o644))
    assert not list(outside.iterdir())


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A fresh tmpfs with room for the top and four files."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=5", "tmpfs", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def _make_numbered(top: Path, numbers: dict[str, int]) -> int:
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    files = [
        replace(_inode(path, stat.S_IFREG | 0o644), number=number)
        for path, number in numbers.items()
    ]
    restore = TreeRestore(fd, files, TmpfsNumbers(fd))
    try:
        restore.make()
        restore.finish()
    finally:
        restore.close()
    return restore.renumbered


def test_a_tmpfs_gets_its_numbers_even_when_they_fill_it(memory: Path) -> None:
    numbers = {"a": 5, "b": 3, "c": 1000, "d": 999}
    assert _make_numbered(memory, numbers) == 0
    assert {path.name: path.stat().st_ino for path in memory.iterdir()} == numbers


def test_numbers_of_a_tmpfs_that_would_take_too_long(
    memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert _make_numbered(memory, {"a": 7, "b": 1 << 30, "c": 1 << 31}) == 2
    assert (memory / "a").stat().st_ino == 7
    assert sorted(path.name for path in memory.iterdir()) == ["a", "b", "c"]
    assert "too many to repeat" in caplog.text


@pytest.mark.parametrize("path", ["/../../..", "/proc/self/cwd", "/"])
def test_a_tmpfs_is_one_of_the_container(path: str) -> None:
    """Whatever the path says, it stays below the root, and has to be a tmpfs there."""
    with pytest.raises(RestoreError) as caught:
        open_tmpfs(os.getpid(), Tree(tree_id=1, kind="tmpfs", path=path))
    assert caught.value.reason == "tmpfs-missing"
