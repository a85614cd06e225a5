"""Which private pages a running container has written to since the last look.

Each address space gets a userfaultfd of its own that only tracks writes (kernel/userfaultfd.py).
Only a task of it can make one, so there is a freeze of a moment in which every process that is
worth it makes one for us, with two bare system calls, and has its descriptor closed again. All the
rest happens from outside while the program runs: mappings are registered, pages armed, and looked
at again and again.

What can never be lost, and why:

* Memory that is not registered counts as written: what was mapped, moved (mremap) or inherited
  since, what an exec has brought, what belongs to somebody else's userfaultfd. A fork's child has
  none of its parent's registrations.
* Only what is there at the end counts: a page that went (munmap, MADV_DONTNEED) and came again
  has lost its mark.
* An address space is scanned and read through files of /proc that were opened when it was
  enrolled, and that stay with it, whatever its process executes and whoever gets its pid. None is
  scanned for two processes, for a scan that arms pages takes the news away.
* A system call may have taken hold of a page before it was armed and write to it afterwards, and no
  page table tells of that. So pages are read only after every task has been out of its system
  calls once (`settle`); asynchronous I/O, which does not end with the call, taints a process.

Private mappings of files, huge pages of a pool and shared memory are not tracked. The first are
small as a rule; what has gone from them cannot be told from what was swapped out. Shared memory may
be written to by those who have mapped it for a moment only, or by write(2): see precopy.py.

The descriptors are the tracking: when their holder ends, however it ends, the kernel takes
everything back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from runtime.engine.api import Freezer
from runtime.engine.arch import current as arch
from runtime.engine.borrowing import borrowed, find_syscall_instruction, look
from runtime.engine.freeze import Frozen, frozen, undisturbed
from runtime.engine.ranges import Range
from runtime.engine.remote import CallFailedError, Tracee
from runtime.errors import ContainerError, TaskVanishedError
from runtime.kernel import kcmp, pagemap, pidfd, proc_maps, proc_task, userfaultfd
from runtime.kernel.features import feature
from runtime.kernel.procfs import read_bytes

log = logging.getLogger(__name__)

WORTHWHILE = 1 << 20
"""Bytes of anonymous memory from which on a process is tracked; others are stored at the end."""
SETTLE_TIMEOUT_S = 0.5

_MAPPING = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) ..(?:.)([ps]) [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ (\d+) *([^\n]*)$",
    re.MULTILINE,
)
_ASYNCHRONOUS = (b"/[aio]", b"anon_inode:[io_uring]")
_NOT_OURS = (b"[vvar", b"[vdso]", b"[vsyscall]")


@dataclass(slots=True)
class TrackedSpace:
    """An address space under tracking.

    Attributes:
        number: Names it; never used again for another one.
        pid: A process that has, or had, this address space, in our pid namespace.
        fd: The userfaultfd.
        page_map: /proc/PID/pagemap.
        memory: /proc/PID/mem, for reading.
        tainted: Whether pages may have changed without a trace.
        replaced: Whether the process has executed another program since, or is gone.
        foreign: Memory that could not be registered at the last look, since it belongs to another
            userfaultfd, or is of a kind that cannot be tracked.
    """

    number: int
    pid: int
    fd: int
    page_map: int
    memory: int
    tainted: bool = False
    replaced: bool = False
    foreign: list[Range] = field(default_factory=list)

    def register(self) -> None:
        """Register what has been mapped since."""
        try:
            text = read_bytes(f"/proc/{self.pid}/maps")
        except (FileNotFoundError, ProcessLookupError):
            self.replaced = True
            return
        if any(word in text for word in _ASYNCHRONOUS):
            self.tainted = True
        self.foreign.clear()
        for group in _anonymous(text):
            # Neighbours in one call; one that cannot be registered spoils it for all of them.
            if not self._register(group[0][0], group[-1][1]):
                self.foreign += [r for r in group if len(group) == 1 or not self._register(*r)]

    def _register(self, start: int, end: int) -> bool:
        try:
            userfaultfd.track_writes(self.fd, start, end)
        except ProcessLookupError:
            self.replaced = True
        except OSError as exc:
            log.debug("pid %d: %#x-%#x is not tracked: %s", self.pid, start, end, exc)
            return False
        return True

    def owns(self, start: int, end: int) -> bool:
        """Whether a mapping with write protection has it from us, at the last look."""
        return not any(low < end and start < high for low, high in self.foreign)

    def written(self, *, rearm: bool) -> list[Range]:
        """The registered pages that were written to since they were armed."""
        scan = pagemap.written_runs(self.page_map, 0, arch.TASK_SIZE, rearm=rearm)
        return list(scan)

    def close(self) -> None:
        """Take everything back."""
        for fd in (self.fd, self.page_map, self.memory):
            if fd >= 0:
                os.close(fd)
        self.fd = self.page_map = self.memory = -1


def _anonymous(text: bytes) -> Iterator[list[Range]]:
    """Private anonymous mappings in the lines of maps, neighbours together."""
    group: list[Range] = []
    for match in _MAPPING.finditer(text):
        if match[3] != b"p" or match[4] != b"0" or match[5].startswith(_NOT_OURS):
            continue
        start, end = int(match[1], 16), int(match[2], 16)
        if start >= arch.TASK_SIZE:
            continue
        if group and group[-1][1] != start:
            yield group
            group = []
        group.append((start, end))
    if group:
        yield group


def untouched(pid: int) -> list[Range]:
    """The pages of a stopped process that are tracked and were not written to since armed."""
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return list(pagemap.unwritten_runs(fd, 0, arch.TASK_SIZE))
    finally:
        os.close(fd)


class WriteTracking:
    """The tracked address spaces of a container; a context manager that leaves no trace.

    Args:
        cgroups: The container's.
        container_id: For messages.
        least: Bytes of anonymous memory from which on a process is tracked.

    Attributes:
        spaces: By the process that each is looked at through.
        freezes: How often the container stood still for it.
        frozen_ns: How long in all, in nanoseconds.
    """

    def __init__(self, cgroups: Freezer, container_id: str, *, least: int = WORTHWHILE) -> None:
        self._cgroups = cgroups
        self._cid = container_id
        self._least = least
        self._last = 0
        self._hopeless: set[int] = set()
        self.spaces: dict[int, TrackedSpace] = {}
        self.freezes = 0
        self.frozen_ns = 0

    def __enter__(self) -> WriteTracking:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take all tracking back. Idempotent."""
        for space in self.spaces.values():
            space.close()
        self.spaces.clear()

    def adopt(self, spaces: Iterable[TrackedSpace]) -> None:
        """Go on with what was tracked before, by somebody who has let go of it."""
        for space in spaces:
            self.spaces[space.pid] = space
            self._last = max(self._last, space.number)

    def follow(self) -> None:
        """Enroll new processes, forget those that are gone, and register new mappings.

        There is a freeze only if some process has to be enrolled.

        Raises:
            CheckpointError, RefusedError: A task cannot be stopped; who is enrolled stays so.
        """
        self.refresh()
        fresh = [pid for pid in self._cgroups.pids() if self._deserves(pid)]
        if fresh:
            self._enroll(fresh)
            for pid in fresh:
                if pid in self.spaces:
                    self.spaces[pid].register()

    def refresh(self) -> None:
        """Register new mappings, and forget who is gone: all that can be done from outside."""
        for space in self.spaces.values():
            space.register()
        for pid, space in list(self.spaces.items()):
            if space.replaced:
                space.close()
                del self.spaces[pid]

    def settle(self) -> bool:
        """Have every task leave the system call that it is in; whether that could be had.

        Pages that were found written and armed before this may be read after it.
        """
        began = time.monotonic_ns()
        try:
            self._cgroups.freeze(timeout_s=SETTLE_TIMEOUT_S)
        except ContainerError as exc:
            # A parent that waits for its vfork child, say.
            log.debug("%s: not settled: %s", self._cid, exc)
            return False
        finally:
            self._cgroups.thaw()
            self.frozen_ns += time.monotonic_ns() - began
        self.freezes += 1
        return True

    def _deserves(self, pid: int) -> bool:
        if pid in self.spaces or pid in self._hopeless:
            return False
        try:
            fields = proc_task.status(pid).fields
        except (FileNotFoundError, ProcessLookupError):
            return False
        return int(fields.get("RssAnon", "0").split()[0]) << 10 >= self._least

    def _enroll(self, pids: list[int]) -> None:
        began = time.monotonic_ns()
        with frozen(self._cgroups, self._cid) as state:
            for pid in self._first_of_each(pids, state):
                try:
                    space = _enroll(state.threads(pid)[0], self._last + 1)
                except (OSError, LookupError, TaskVanishedError, ValueError) as exc:
                    # No free descriptor, say: its memory is stored at the end.
                    log.info("pid %d: its writes are not tracked: %s", pid, exc)
                    self._hopeless.add(pid)
                    continue
                self._last += 1
                self.spaces[pid] = space
        self.freezes += 1
        self.frozen_ns += time.monotonic_ns() - began

    def _first_of_each(self, pids: list[int], state: Frozen) -> list[int]:
        """One process for each address space that nobody looks after yet."""
        alive = set(state.pids)
        known = [pid for pid in (*self.spaces, *pids) if pid in alive]
        order = {pid: index for index, pid in enumerate(known)}
        groups = kcmp.group_same(known, lambda a, b: kcmp.kcmp(a, b, kcmp.KCMP_VM))
        firsts = {min(group, key=order.__getitem__) for group in groups}
        return [pid for pid in pids if pid in firsts]


def _enroll(leader: Tracee, number: int) -> TrackedSpace:
    """Have a stopped process make what its address space is tracked by."""
    with contextlib.ExitStack() as undo:
        page_map = os.open(f"/proc/{leader.tid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, page_map)
        memory = os.open(f"/proc/{leader.tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, memory)
        fd = _make_userfaultfd(leader)
        undo.pop_all()
    return TrackedSpace(number, leader.pid, fd, page_map, memory)


def _make_userfaultfd(leader: Tracee) -> int:
    """Have a stopped process make a userfaultfd for its memory, for us alone.

    Raises:
        OSError, LookupError: It cannot.
        TaskVanishedError: It was killed.
    """
    instruction = find_syscall_instruction(leader.tid, proc_maps.lines(leader.tid))
    saved = look(leader)
    process = pidfd.open_pidfd(leader.pid)
    try:
        # Each of the two calls is as short as those around any batch (borrowing.py).
        with undisturbed(), borrowed(leader, saved):
            number = leader.call_at(instruction, "userfaultfd", userfaultfd.FLAGS)
            try:
                fd = pidfd.get_fd(process, number)
            finally:
                with contextlib.suppress(CallFailedError):
                    leader.call_at(instruction, "close", number)
    finally:
        os.close(process)
    try:
        userfaultfd.enable_write_tracking(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def can_track() -> str:
    """Why this kernel cannot track writes; empty when it can."""
    for name in ("userfaultfd-wp-async", "pagemap-scan"):
        found = feature(name)
        if not found.available:
            return f"{name}: {found.why_not}"
    return ""
