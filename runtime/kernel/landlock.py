"""landlock(7): whether a task is confined. Nothing but the kernel's memory tells.

Each security module has a place in what a task's credentials point at. Where Landlock's is, a
thread of ours finds out that confines itself: there is a pointer afterwards, and was none before.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import struct

from runtime.kernel.aside import with_own_directories
from runtime.kernel.kernel_memory import KernelMemory, kernel_memory
from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR
from runtime.kernel.pidfd import open_pidfd
from runtime.kernel.prctl import PR_SET_NO_NEW_PRIVS, prctl

log = logging.getLogger(__name__)

LANDLOCK_ACCESS_FS_MAKE_CHAR = 1 << 6  # include/uapi/linux/landlock.h
_ROOM = 64  # bytes of credentials that all security modules together are taken to have
_TRIALS = 8
_KERNEL = 1 << 63  # kernel addresses have this bit


class LandlockDomains:
    """Finds the domains of tasks.

    Args:
        memory: The kernel's.

    Raises:
        OSError: No Landlock here (ENOSYS, EOPNOTSUPP).
        KeyError: The kernel's types are not as they were known to be.
        ValueError: Its place in the credentials was not found.
    """

    def __init__(self, memory: KernelMemory) -> None:
        self._memory = memory
        self._known: dict[int, bool] = {}
        # What lies behind the modules' places is somebody else's, and may change by chance.
        candidates = set(range(_ROOM // 8))
        for _ in range(_TRIALS):
            before, after = with_own_directories(self._confined)
            candidates &= {at for at in candidates if not before[at] and after[at] & _KERNEL}
        if len(candidates) != 1:
            raise ValueError(f"Landlock's pointer is one of {candidates}")
        self._at = 8 * candidates.pop()

    def _confined(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The credentials of a thread that confines itself, before and after."""
        before = self._blob(self._memory.task())
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        rules = ctypes.create_string_buffer(struct.pack("<Q", LANDLOCK_ACCESS_FS_MAKE_CHAR), 8)
        address = ctypes.addressof(rules)
        fd = syscall("landlock_create_ruleset", NR["landlock_create_ruleset"], address, 8, 0)
        try:
            syscall("landlock_restrict_self", NR["landlock_restrict_self"], fd, 0)
        finally:
            os.close(fd)
        return before, self._blob(self._memory.task())

    def _blob(self, task: int) -> tuple[int, ...]:
        cred = self._memory.pointer(task, "task_struct", "cred")
        blob = self._memory.read(self._memory.pointer(cred, "cred", "security"), _ROOM)
        return struct.unpack(f"<{_ROOM // 8}Q", blob)

    def confines(self, tid: int) -> bool:
        """Whether a task, the first of its process, is in a domain.

        It must not run meanwhile.

        Raises:
            ValueError: It is not where it was looked for.
        """
        memory = self._memory
        fd = open_pidfd(tid)
        try:
            file = memory.file(fd)
            inode = memory.pointer(file, "file", "f_inode")
            pid = memory.pointer(inode, "inode", "i_private")
            number = memory.read(memory.at(pid, "pid", "numbers"), 4)
        finally:
            os.close(fd)
        if int.from_bytes(number, "little") != tid:
            raise ValueError(f"process {tid} is not behind its descriptor")
        first = memory.pointer(pid, "pid", "tasks")  # of those whose own id this is
        cred = memory.pointer(
            first - memory.at(0, "task_struct", "pid_links"), "task_struct", "cred"
        )
        if cred not in self._known:
            place = memory.pointer(cred, "cred", "security") + self._at
            self._known[cred] = bool(memory.pointer(place))
        return self._known[cred]


@functools.cache
def landlock_domains() -> LandlockDomains | None:
    """The finder, made at the first call, or None where there can be none."""
    memory = kernel_memory()
    if memory is None:
        return None
    try:
        domains = LandlockDomains(memory)
        domains.confines(os.getpid())  # from now on it is quick
        return domains
    except (OSError, KeyError, ValueError) as exc:
        log.info("Landlock's domains cannot be told: %s", exc)
        return None
