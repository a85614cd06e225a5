"""Mounts that a program has made, moved, changed or removed in its mount namespaces."""

from __future__ import annotations

from dataclasses import dataclass

from formats.records.codec import record


@dataclass(frozen=True, slots=True)
class BinaryFormat:
    """A format of binfmt_misc.

    Attributes:
        name: Its name.
        line: What registers it, of at most 1920 bytes.
        enabled: Whether it is in effect.
    """

    name: str
    line: bytes
    enabled: bool


@record("mount")
@dataclass(frozen=True, slots=True)
class MountPoint:
    """One mount of a mount namespace, man 5 proc_pid_mountinfo.

    A namespace that is as the sandbox has made it has no such records; any other has one for every
    mount, in the order in which they were made.

    Attributes:
        ns_id: The namespace.
        mount_id: Number of the mount in this image.
        parent_id: The mount it stands on; 0 for the top of the namespace.
        place: Where on that, relative to the top of it; "." for its very top.
        point: The whole path, as the namespace sees it.
        root: What it shows of its file system: an absolute path there.
        fs_id: Mounts with the same number show the same file system.
        fstype: Its type.
        source: What it was mounted from, a mere name for most.
        data: Options of the file system; of one that the sandbox makes, only if they were changed.
        read_only: Whether the file system, not just the mount, is read-only.
        attributes: ``MOUNT_ATTR_*``; -1 for those that the sandbox gives.
        shared: Peer group, 0 for none.
        master: Peer group whose changes it receives, 0 for none; one that is nobody's lies outside.
        unbindable: Whether it refuses to be bound.
        rewired: Whether its propagation is not the one that the sandbox gives.
        given: Whether the sandbox makes it.
        removed: Whether it is one of the sandbox's that is gone.
        key: Of an external mount: the name that a restore finds its source by.
        namespace_id: Of a bound namespace file: which it is, else 0.
        deleted_object_id: For a root that lost its name: the `DeletedFile`, or 0.
        formats: Of binfmt_misc of a user namespace: what is registered there, the oldest first.
    """

    ns_id: int
    mount_id: int
    parent_id: int
    place: str
    point: str
    root: str
    fs_id: int
    fstype: str
    source: str
    data: str = ""
    read_only: bool = False
    attributes: int = -1
    shared: int = 0
    master: int = 0
    unbindable: bool = False
    rewired: bool = False
    given: bool = False
    removed: bool = False
    key: str = ""
    namespace_id: int = 0
    deleted_object_id: int = 0
    formats: tuple[BinaryFormat, ...] = ()
