"""Records of mounts are an image's word: they must not lead anywhere else."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from formats.records.files import Tree
from formats.records.mounts import MountPoint
from runtime.engine.files.restored import FileSystem
from runtime.engine.mounts import sources
from runtime.errors import RestoreError


def _record(**changes: Any) -> MountPoint:
    record: dict[str, Any] = {
        "ns_id": 1,
        "mount_id": 2,
        "parent_id": 0,
        "place": ".",
        "point": "/mnt",
        "root": "/",
        "fs_id": 3,
        "fstype": "tmpfs",
        "source": "none",
    }
    return MountPoint(**(record | changes))


def test_a_file_system_of_a_device_is_not_made() -> None:
    nothing = cast(Any, None)
    with pytest.raises(RestoreError) as caught:
        sources.make_file_system(nothing, nothing, _record(fstype="ext4", source="/dev/sda1"))
    assert caught.value.reason == "image-inconsistent"


@pytest.mark.parametrize(("root", "top"), [("/other", "/shown"), ("/shownmore", "/shown")])
def test_what_a_mount_does_not_show_is_not_bound(root: str, top: str) -> None:
    with pytest.raises(RestoreError) as caught:
        sources.below(root, top)
    assert caught.value.reason == "mount-missing"


def test_a_tree_stays_in_its_file_system(tmp_path: Path) -> None:
    top, outside = tmp_path / "top", tmp_path / "outside"
    top.mkdir()
    outside.mkdir()
    (top / "link").symlink_to(outside)
    fd = os.open(top, os.O_PATH)
    try:
        files = cast(Any, SimpleNamespace(file_systems={3: FileSystem("/", fd, 0)}))
        for root in ("/../outside", "/link", "/link/below"):
            with pytest.raises(RestoreError) as caught:
                sources.open_root(files, Tree(1, "tmpfs", "/mnt", 3, root))
            assert caught.value.reason == "image-path"
        os.close(sources.open_root(files, Tree(1, "tmpfs", "/mnt", 3, "/made/here")))
    finally:
        os.close(fd)
    assert not list(outside.iterdir())
    assert (top / "made" / "here").is_dir()


@pytest.mark.parametrize("place", ["../outside", "link", "/etc"])
def test_a_mount_stands_on_its_parent(tmp_path: Path, place: str) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (tmp_path / "outside").mkdir()
    (top / "link" / "x").parent.symlink_to(tmp_path / "outside")
    fd = os.open(top, os.O_PATH)
    try:
        with pytest.raises(RestoreError) as caught:
            os.close(sources.open_place(fd, _record(place=place + "/x")))
        assert caught.value.reason == "mount-missing"
    finally:
        os.close(fd)
