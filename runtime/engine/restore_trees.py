"""The files that an image carries: those of the overlay, and those of tmpfs mounts."""

from __future__ import annotations

import logging
import os

from formats.records.files import Inode, Tree
from runtime.engine.files.mounts import open_inside
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.image_records import Records
from runtime.engine.inode_numbers import Ext4Numbers, TmpfsNumbers
from runtime.engine.mounts.sources import open_root
from runtime.engine.restore_stream import ChunkStream
from runtime.engine.trees import TreeRestore
from runtime.errors import RestoreError
from runtime.kernel.mountinfo import read_mounts

log = logging.getLogger(__name__)


def fill_overlay(
    records: Records, stream: ChunkStream, upper: str | None, name: str, *, own: bool
) -> None:
    """Put the files that the container had changed into a new overlay's upper directory.

    Args:
        records: Of the image.
        stream: Its chunks.
        upper: The directory; None for a container without an overlay.
        name: Of the container, for messages.
        own: It is in an ext4 of the container's own, where inode numbers can be chosen.

    Raises:
        RestoreError: The image carries such files, and *upper* is None.
    """
    tree = next((tree for tree in records.all_of(Tree) if tree.kind == "overlay"), None)
    if tree is None:
        return
    if upper is None:
        raise RestoreError(
            f"{name}: the image carries an overlay, the new container has none",
            reason="overlay-missing",
        )
    top = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    numbers = Ext4Numbers(os.fstat(top).st_dev) if own else None
    _fill(stream, TreeRestore(top, _inodes(records, tree), numbers), "/")


def fill_tmpfs(records: Records, stream: ChunkStream, files: RestoredFiles, init_pid: int) -> None:
    """Put the files of every tmpfs in.

    Args:
        records: Of the image.
        stream: Its chunks.
        files: Of the container, with its mounts.
        init_pid: Of the sandbox.

    Raises:
        RestoreError: The new sandbox has no tmpfs where the image has one.
    """
    for held in records.all_of(Tree):
        if held.kind == "tmpfs":
            top = open_root(files, held) if held.fs_id else open_tmpfs(init_pid, held)
            _fill(stream, TreeRestore(top, _inodes(records, held), TmpfsNumbers(top)), held.path)


def devices(records: Records) -> dict[str, int]:
    """The st_dev that the file systems of the sandbox had, by their mount points."""
    return {tree.path: tree.device for tree in records.all_of(Tree) if tree.root == "/"}


def open_tmpfs(pid: int, tree: Tree) -> int:
    """The mount point of a tmpfs, which the new sandbox must have at the same place."""
    try:
        top = open_inside(f"/proc/{pid}/root", tree.path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise RestoreError(
            f"{tree.path}: {os.strerror(exc.errno or 0)}, and the image carries files of a "
            "tmpfs there",
            reason="tmpfs-missing",
        ) from exc
    device = os.fstat(top).st_dev
    tmpfs = {m.device for m in read_mounts(pid) if m.fstype == "tmpfs"}
    if device not in tmpfs:
        os.close(top)
        raise RestoreError(
            f"{tree.path}: is no tmpfs, and the image carries files of one",
            reason="tmpfs-missing",
        )
    return top


def _inodes(records: Records, tree: Tree) -> list[Inode]:
    return [inode for inode in records.all_of(Inode) if inode.tree_id == tree.tree_id]


def _fill(stream: ChunkStream, restore: TreeRestore, path: str) -> None:
    try:
        restore.make()
        if restore.renumbered:
            log.info("%s: %d files have other inode numbers", path, restore.renumbered)
        for chunk in stream.of(restore.objects):
            restore.fill(chunk)
        restore.finish()
    finally:
        restore.close()
