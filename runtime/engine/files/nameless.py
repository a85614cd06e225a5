"""Files that live on without a name: made under a name that is free, which then goes again."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from runtime.engine.files.mounts import open_inside
from runtime.errors import RestoreError

T = TypeVar("T")


def make_nameless(root: str, path: str, make: Callable[[int, str], T]) -> T:
    """Make a file and remove its name.

    Its old name shows in /proc, so that one is tried first; one of ours where that is taken, and
    the container's root where the directory is gone too.

    Args:
        root: Directory that is "/" for the container.
        path: Where the file was, as the container says it.
        make: Creates the file by (directory descriptor, name) and opens it; FileExistsError when
            the name is taken.
    """
    try:
        top = open_inside(root, os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        top = open_inside(root, "/", os.O_PATH | os.O_DIRECTORY)
    try:
        for name in (os.path.basename(path), f".wherry-{os.getpid()}"):
            try:
                made = make(top, name)
            except FileExistsError:
                continue
            os.unlink(name, dir_fd=top)
            return made
    finally:
        os.close(top)
    raise RestoreError(f"no free name for the removed file {path}")
