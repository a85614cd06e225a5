"""Bundles that came with a container from another host: in the state root, and gone with it.

``ROOT/.bundles/ID`` has a ``config.json``, a ``rootfs``, and ``origins``: where that root file
system was on the hosts that the container has come through, one path in each line.
"""

from __future__ import annotations

from pathlib import Path

from runtime.ids import BUNDLES
from runtime.metadata import Metadata
from runtime.removal import remove_tree

ORIGINS = "origins"
_CUT = "~cut"  # no id has a tilde


def received_bundle(root: Path, cid: str) -> Path:
    """Where the bundle of a received container is, if it has one."""
    return root / BUNDLES / cid


def cut_bundle(root: Path, cid: str) -> Path:
    """Where that is of it which has come before the connection broke, for the next attempt."""
    return root / BUNDLES / f"{cid}{_CUT}"


def remove_leftovers(root: Path, cid: str) -> None:
    """Remove what has come of a container's bundle, when there is no container of that id."""
    for bundle in (received_bundle(root, cid), cut_bundle(root, cid)):
        remove_bundle(bundle)


def origins_of(bundle: Path) -> list[str]:
    """Where the root file system of a received bundle was before; none when it was not received."""
    try:
        return (bundle / ORIGINS).read_text().splitlines()
    except OSError:
        return []


def remove_received(directory: Path, metadata: Metadata | None) -> None:
    """Remove the bundle of a container that is being taken down, if it has come with it.

    Args:
        directory: The container's.
        metadata: Its record; None when it cannot be read.
    """
    bundle = received_bundle(directory.parent, directory.name)
    if metadata is None or Path(metadata.bundle) == bundle.absolute():
        remove_bundle(bundle)


def remove_bundle(bundle: Path) -> None:
    """Remove a received bundle; nothing happens when there is none."""
    if bundle.is_dir() and not bundle.is_symlink():
        remove_tree(bundle, bundle.parent, bundle.stat().st_dev)
