"""The directory that holds a host's containers: one subdirectory each, named by the id."""

from __future__ import annotations

import os
from pathlib import Path

from runtime.errors import ContainerError, ContainerNotFoundError
from runtime.ids import BUNDLES, find_id, valid_id
from runtime.metadata import Metadata, OperationLock, read_metadata


def ids(root: Path) -> list[str]:
    """The ids under a state root, in order; none when there is no such root."""
    try:
        with os.scandir(root) as entries:
            found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return sorted(name for name in found if name != BUNDLES)


def find_directory(root: Path, cid: str, *, exact: bool = False) -> Path:
    """The directory of the container that *cid* means.

    Args:
        root: The state root.
        cid: An id, which may be abbreviated unless *exact* is set.
        exact: Take only a whole id.

    Raises:
        ContainerNotFoundError: No id begins with *cid*.
        AmbiguousIdError: Several do.
    """
    known = ids(root)
    if exact and cid not in known:
        raise ContainerNotFoundError(f"container {cid!r} does not exist")
    return root / find_id(cid, known)


def delete_entry(root: Path, cid: str, *, force: bool) -> None:
    """Delete what the root holds under an id, also when it is half created or corrupt.

    Raises:
        ContainerNotFoundError: There is nothing, and *force* is not set.
        ContainerError: The entry is damaged, and *force* is not set.
    """
    from runtime.container import Container

    try:
        directory = find_directory(root, cid, exact=force)
        container = Container(root, read_metadata(directory))
    except ContainerNotFoundError:
        if not force:
            raise
        if valid_id(cid):
            from runtime.received_bundle import remove_leftovers

            remove_leftovers(root, cid)
    except ContainerError:
        if not force:
            raise
        _delete_damaged(directory)
    else:
        container.destroy(force=force)


def _delete_damaged(directory: Path) -> None:
    from runtime.destruction import tear_down

    try:
        with OperationLock(directory):
            # Whoever was creating it when we looked may have finished it meanwhile.
            try:
                metadata: Metadata | None = read_metadata(directory)
            except ContainerError:
                metadata = None
            tear_down(directory, metadata)
    except ContainerNotFoundError:
        return
