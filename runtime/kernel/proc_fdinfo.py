"""/proc/PID/fdinfo: what the kernel tells about an open file description."""

from __future__ import annotations

import os

from runtime.kernel.procfs import read_text


class FdInfo(dict[str, list[str]]):
    """Lines of a fdinfo file by key; a key that repeats has several values."""

    def one(self, key: str) -> str:
        """The value of a key that stands once."""
        return self[key][0]

    @property
    def flags(self) -> int:
        """open(2) flags, O_CLOEXEC among them."""
        return int(self.one("flags"), 8)

    @property
    def position(self) -> int:
        """File offset in bytes."""
        return int(self.one("pos"))

    @property
    def mount_id(self) -> int:
        """The first field of the mount's mountinfo line."""
        return int(self.one("mnt_id"))


def fdinfo(pid: int, fd: int) -> FdInfo:
    """Read /proc/PID/fdinfo/FD.

    Keys that stand without a colon (``tfd:`` and ``inotify wd:`` lines hold several pairs) are
    kept whole under their first word.

    Source: man 5 proc_pid_fdinfo.
    """
    info = FdInfo()
    for line in read_text(f"/proc/{pid}/fdinfo/{fd}").splitlines():
        if line.startswith("inotify "):
            info.setdefault("inotify", []).append(line)
            continue
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), []).append(value.strip())
    return info


def descriptors(pid: int) -> list[int]:
    """The descriptor numbers of a process, ascending."""
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))


def readlink(pid: int, fd: int) -> str:
    """What /proc/PID/fd/FD points at."""
    return os.readlink(f"/proc/{pid}/fd/{fd}")
