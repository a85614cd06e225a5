"""Every mount of a namespace, and a way to the top of each, whatever is mounted over it.

What hides a mount is taken away in a private copy of the namespace, which vanishes afterwards. The
descriptors stay good: nothing is mounted below them any more, so a walk from one sees all that the
file system holds and nothing else.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field

from runtime.kernel.aside import MountHand
from runtime.kernel.clone import CLONE_NEWNS
from runtime.kernel.mount import MNT_DETACH, MS_PRIVATE, MS_REC, UMOUNT_NOFOLLOW, mount, umount2
from runtime.kernel.mountinfo import Mount, parse_mounts, read_mounts
from runtime.kernel.namespaces import unshare

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Scan:
    """The mounts of one namespace.

    Attributes:
        mounts: In the kernel's order.
        tops: A descriptor of ours for the top of a mount, by mount id; some may be missing.
        root: A descriptor of the namespace's root as it is.
    """

    mounts: list[Mount]
    tops: dict[int, int] = field(default_factory=dict)
    root: int = -1

    def fds(self) -> list[int]:
        """All descriptors."""
        return [*self.tops.values(), self.root]


class HostProc:
    """/proc as this process sees it, also from a thread in another mount namespace."""

    def __init__(self) -> None:
        self._fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def read(self, path: str) -> bytes:
        """The content of a file below it."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        with open(fd, "rb") as file:
            return file.read()

    def mount_id(self, fd: int) -> int:
        """The mount that a descriptor of ours is on."""
        for line in self.read(f"self/fdinfo/{fd}").splitlines():
            if line.startswith(b"mnt_id:"):
                return int(line.split()[1])
        raise ValueError(f"no mount in the fdinfo of descriptor {fd}")

    def mounts(self) -> list[Mount]:
        """The mounts that the calling thread sees."""
        return parse_mounts(self.read("thread-self/mountinfo"))

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


def scan(pids: list[int]) -> Scan:
    """Find every mount of the namespace that the tasks *pids* are in, and a way to its top.

    Raises:
        OSError: The kernel refused.
    """
    found = Scan([])
    proc = HostProc()
    try:
        with MountHand(f"/proc/{pids[0]}/ns/mnt") as hand:
            found.root = hand.do(os.open, "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            found.mounts = hand.do(proc.mounts)
            _take_wider_view(found, pids)
            hand.do(_copy_namespace)
            copies = hand.do(proc.mounts)
            opened = _peel(hand, proc, copies)
        same = _match(found.mounts, copies)
        found.tops = {same[copy]: fd for copy, fd in opened.items() if copy in same}
        for copy, fd in opened.items():
            if copy not in same:
                os.close(fd)
        _open_rest(found, proc, pids)
    except BaseException:
        for fd in found.fds():
            if fd >= 0:
                os.close(fd)
        raise
    finally:
        proc.close()
    return found


def _take_wider_view(found: Scan, pids: list[int]) -> None:
    """See what a task sees, if it is more: its root may lie below what covers the namespace's."""
    for pid in pids:
        mounts = read_mounts(pid)
        if len(mounts) > len(found.mounts):
            found.mounts = mounts
            os.close(found.root)
            found.root = -1
            path = f"/proc/{pid}/root"
            found.root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _copy_namespace() -> None:
    unshare(CLONE_NEWNS)
    mount(None, "/", None, MS_REC | MS_PRIVATE)


def _peel(hand: MountHand, proc: HostProc, copies: list[Mount]) -> dict[int, int]:
    """Unmount everything from the leaves to the root, with a descriptor of each before."""
    ids = {mount.mount_id for mount in copies}
    opened: dict[int, int] = {}
    left = {m.mount_id: m for m in reversed(copies) if m.parent_id in ids}
    moved = True
    while left and moved:
        moved = False
        for number, entry in list(left.items()):
            if any(other.parent_id == number for other in left.values()):
                continue
            # Something else may cover it, and goes first.
            try:
                fd = hand.do(os.open, entry.point, _PATH)
            except OSError:
                continue
            if proc.mount_id(fd) != number:
                os.close(fd)
                continue
            opened[number] = fd
            # A mount that a more privileged owner locked stays; what it hides remains hidden.
            with contextlib.suppress(OSError):
                hand.do(umount2, entry.point, MNT_DETACH | UMOUNT_NOFOLLOW)
            del left[number]
            moved = True
    for entry in copies:
        if entry.parent_id not in ids:
            opened[entry.mount_id] = hand.do(os.open, "/", _PATH)
    return opened


def _match(mounts: list[Mount], copies: list[Mount]) -> dict[int, int]:
    """Which mount a copy is of: both trees have the same shape."""
    same: dict[int, int] = {}

    def key(entry: Mount) -> tuple[str, str, int]:
        return entry.point, entry.root, entry.device

    def pair(originals: list[Mount], twins: list[Mount]) -> None:
        left = list(twins)
        for original in originals:
            twin = next((t for t in left if key(t) == key(original)), None)
            if twin is None:
                continue
            left.remove(twin)
            same[twin.mount_id] = original.mount_id
            pair(
                [m for m in mounts if m.parent_id == original.mount_id],
                [m for m in copies if m.parent_id == twin.mount_id],
            )

    pair(tops_of(mounts), tops_of(copies))
    if not same:  # the copy's root lies on top of the one that the tasks have
        for original in mounts:
            if key(original) == key(tops_of(copies)[0]):
                pair([original], tops_of(copies))
                break
    return same


def tops_of(mounts: list[Mount]) -> list[Mount]:
    """The mounts that stand on none of the others."""
    ids = {mount.mount_id for mount in mounts}
    return [mount for mount in mounts if mount.parent_id not in ids]


def _open_rest(found: Scan, proc: HostProc, pids: list[int]) -> None:
    """Mounts that the copy does not show but a task's own root leads to."""
    for entry in found.mounts:
        if entry.mount_id in found.tops:
            continue
        for pid in pids:
            with contextlib.suppress(OSError):
                fd = os.open(f"/proc/{pid}/root{entry.point}", os.O_PATH | os.O_CLOEXEC)
                if proc.mount_id(fd) == entry.mount_id:
                    found.tops[entry.mount_id] = fd
                    break
                os.close(fd)
