"""Removing directories, however deep they are."""

from __future__ import annotations

import os
from pathlib import Path

from runtime.errors import ContainerError


def remove_tree(tree: Path, trash: Path, device: int) -> None:
    """Remove a directory with all that is in it, but never enter another file system.

    A container can nest directories deeper than a path may be long or Python may recurse. So each
    subdirectory is moved to *trash* before its own turn, and no path ever grows.

    Args:
        tree: The directory.
        trash: Another one of the same file system, where names that begin with a dot are free.
        device: ``st_dev`` of the file system.

    Raises:
        ContainerError: Another file system is mounted in it.
    """
    queue, count = [tree], 0
    while queue:
        directory = queue.pop()
        if directory.lstat().st_dev != device:
            raise ContainerError(f"{directory} is still mounted", reason="still-mounted")
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    count += 1
                    moved = trash / f".{os.getpid()}.{count}"
                    Path(entry.path).rename(moved)
                    queue.append(moved)
                else:
                    Path(entry.path).unlink(missing_ok=True)
        directory.rmdir()
