"""Mounts that show the file of a UNIX socket.

bind(2) always makes a file of its own, so such a mount cannot show it before the socket is there:
it shows what stands in for it, and is put up anew.
"""

from __future__ import annotations

import os

from formats.records.mounts import MountPoint
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.mounts.build import ALL_ATTRIBUTES
from runtime.engine.mounts.sources import clone_of, open_place
from runtime.errors import RestoreError
from runtime.kernel.aside import MountHand
from runtime.kernel.mount import (
    MNT_DETACH,
    MOUNT_ATTR__ATIME,
    MS_PRIVATE,
    UMOUNT_NOFOLLOW,
    mount_setattr,
    move_mount,
    umount2,
)


def mounts_of(files: RestoredFiles, status: os.stat_result) -> list[MountPoint]:
    """The mounts of the image whose top is the file of *status*."""
    wanted = (status.st_dev, status.st_ino)
    found = []
    for record in files.all_of(MountPoint):
        top = files.tops.get(record.mount_id)
        if top is not None and not record.given:
            seen = os.fstat(top)
            if (seen.st_dev, seen.st_ino) == wanted:
                found.append(record)
    return found


def mount_again(files: RestoredFiles, records: list[MountPoint], directory: int, name: str) -> None:
    """Have mounts show the file *name* in *directory*, a descriptor of ours, and nothing else.

    Raises:
        RestoreError: The kernel refused, or such a mount shares what it does with others.
    """
    if not records:
        return
    node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        for record in records:
            if record.shared or record.master:
                raise RestoreError(
                    f"mount {record.point} shows a socket and shares its changes",
                    reason="mount-failed",
                )
            with MountHand(files.places[record.ns_id].path) as hand:
                _replace(files, hand, record, node)
    except OSError as exc:
        raise RestoreError(
            f"the mount of a socket cannot be put back: {exc.strerror}", reason="mount-failed"
        ) from exc
    finally:
        os.close(node)


def _replace(files: RestoredFiles, hand: MountHand, record: MountPoint, node: int) -> None:
    hand.do(umount2, record.point, MNT_DETACH | UMOUNT_NOFOLLOW)
    place = open_place(files.tops[record.parent_id], record)
    try:
        fresh = hand.do(clone_of, node)
        attributes = record.attributes & ALL_ATTRIBUTES if record.attributes >= 0 else 0
        hand.do(
            mount_setattr,
            fresh,
            attr_set=attributes,
            attr_clear=ALL_ATTRIBUTES & ~attributes | MOUNT_ATTR__ATIME,
            propagation=MS_PRIVATE,
        )
        hand.do(move_mount, fresh, place)
    finally:
        os.close(place)
    os.close(files.tops[record.mount_id])
    files.tops[record.mount_id] = fresh
