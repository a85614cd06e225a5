"""What a restore knows about files while it recreates them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from formats.records.files import DeletedFile, MemFd, Pipe, RegularFile
from formats.records.memory import SharedMemory
from formats.records.task import Process
from runtime.engine.api import OutsideLink, RestoreOptions
from runtime.engine.files.ghosts import Handles, fill_ghost, finish_ghost, make_ghosts
from runtime.engine.files.mounts import open_inside
from runtime.engine.image_records import Records
from runtime.engine.new_task import NewTask
from runtime.engine.remote import Batch
from runtime.errors import RestoreError
from runtime.kernel import pidfd
from runtime.kernel.nft import PacketLock
from runtime.kernel.shmem import shared_anonymous

if TYPE_CHECKING:
    from formats.statefile import Chunk
    from runtime.engine.sandbox.kind import Place

T = TypeVar("T")
R = TypeVar("R")
_ID_FIELDS = ("pipe_id", "object_id")


def open_again(fd: int, flags: int) -> int:
    """A description of its own, with its own flags, of the file behind *fd*."""
    # The way leads over a link of /proc, which O_NOFOLLOW would refuse. O_ASYNC, taken by open(2),
    # does nothing and can never be set in earnest again.
    flags &= ~(os.O_NOFOLLOW | os.O_ASYNC)
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


class FileSystem(NamedTuple):
    """A file system to mount from.

    Attributes:
        root: What the mount shows of it.
        fd: Our descriptor for a mount of it that is attached nowhere.
        pid: A task of the mount namespace in which that can be copied; 0 for any.
    """

    root: str
    fd: int
    pid: int


class RestoredFiles:
    """Descriptors of ours for the files of a container that comes to life.

    Attributes:
        root: The container's root, as a path of ours.
        stdio: What stands in for the standard streams from outside.
        init: The container's init, to make what only a task inside can make.
        options: What the caller gives or allows.
        fds: Our descriptor for each file record.
        last_steps: Called when everything else is in place, namespaces' state included.
        packet_lock: Holds off the peers of connections until these stand.
        file_systems: By their numbers.
        tops: Our descriptor for the top of each mount that the image has a record of.
        arranged: Whether all mounts stand; before that only the sandbox's own can be used.
        hidden: Our descriptors for files that something is mounted over, by mount and path there.
        tracees: Leader of each process by its pid as we see it.
        ns_pids: The pid inside of each of these.
        tids: Every task that exists, zombies-to-be included: our id for it by the one inside.
        ids: Every id inside that a task, group or session of the image has.
        channel: The other end of every task's `runtime.engine.new_task.CHANNEL_FD`.
        places: The namespaces under reconstruction, by their number in the image.
        tun_queues: Our descriptors of TUN interfaces, by namespace and name, until they are taken.
        posix_queues: Our descriptors of message queues, by their number in the image.
        clock_elapsed: How far the container's clock has come since the image was made, in ns.
        outside: The interfaces of the sandbox's own network namespace that lead outside.
        makers: How to open those shared-memory objects that are not merely memory.
    """

    def __init__(
        self,
        records: Records,
        *,
        root: str,
        stdio: tuple[int, int, int],
        init: NewTask,
        options: RestoreOptions,
        channel: socket.socket,
    ) -> None:
        self._records = records
        # The init may change its root before all files are open.
        self._root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.root = f"/proc/self/fd/{self._root_fd}"
        self.stdio = stdio
        self.init = init
        self.options = options
        self.channel = channel
        self.fds: dict[int, int] = {}
        self.packet_lock: PacketLock | None = None
        self.last_steps: list[Callable[[], None]] = []
        self.places: dict[int, Place] = {}
        self.outside: list[OutsideLink] = []
        self.tun_queues: dict[tuple[int, str], int] = {}
        self.tracees: dict[int, NewTask] = {init.pid: init}
        self.tids: dict[int, int] = {}
        self.ids = set(self._ids())
        self.ns_pids: dict[int, int] = {}
        self.tables: dict[int, dict[int, int]] = {}
        self.table_ids: set[int] = set()
        self.posix_queues: dict[int, int] = {}
        self.clock_elapsed: Callable[[], int] = lambda: 0
        self.makers: dict[int, Callable[[], int]] = {}
        self._once: dict[object, Any] = {}
        self._objects: dict[int, int] = {}
        self._ghosts = Handles()
        self.file_systems: dict[int, FileSystem] = {}
        self.tops: dict[int, int] = {}
        self.arranged = False
        self.hidden: dict[tuple[int, str], int] = {}
        self._close_later: list[int] = []
        self._when_closed: list[Callable[[], None]] = []
        self._init_pidfd = pidfd.open_pidfd(init.pid)

    # Records

    def all_of(self, kind: type[R]) -> list[R]:
        """All records of a class."""
        return self._records.all_of(kind)

    def record_of(self, kind: type[R], number: int) -> R:
        """The record of a class with the id *number*."""
        index = self.once(("index", kind), lambda: self._index(kind))
        try:
            return index[number]
        except KeyError:
            raise RestoreError(
                f"the image names {kind.__name__} {number}, which it does not hold",
                reason="image-inconsistent",
            ) from None

    def _ids(self) -> Iterator[int]:
        for process in self.all_of(Process):
            yield from (process.pid, process.pgid, process.sid)
            yield from (thread.tid for thread in process.threads)

    def _index(self, kind: type[R]) -> dict[int, R]:
        field = next((f for f in _ID_FIELDS if f in kind.__dataclass_fields__), "file_id")  # type: ignore[attr-defined]
        return {getattr(record, field): record for record in self.all_of(kind)}

    def once(self, key: object, make: Callable[[], T]) -> T:
        """The result of *make*, made at the first call with this *key*."""
        if key not in self._once:
            self._once[key] = make()
        result: T = self._once[key]
        return result

    def made(self, key: object) -> Any:
        """What `once` has made for *key*, or None."""
        return self._once.get(key)

    def change_root(self, top: int) -> None:
        """From now on the container's root is the directory *top*, a descriptor that we take."""
        os.dup2(top, self._root_fd, inheritable=False)
        os.close(top)

    # Contents

    def shared_memory(self, object_id: int, memfd: MemFd | None = None) -> int:
        """Our descriptor for a shared-memory object, made at the first call."""
        if object_id not in self._objects and object_id in self.makers:
            self._objects[object_id] = self.makers[object_id]()
        if object_id not in self._objects:
            shared = self.record_of(SharedMemory, object_id)
            memfd = memfd or next((m for m in self.all_of(MemFd) if m.object_id == object_id), None)
            if memfd is None:
                fd = shared_anonymous(shared.size, shared.huge_page_size)
            else:
                flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
                if shared.huge_page_size:
                    size_bits = (shared.huge_page_size.bit_length() - 1) << os.MFD_HUGE_SHIFT
                    flags |= os.MFD_HUGETLB | size_bits
                fd = os.memfd_create(memfd.name, flags)
                os.ftruncate(fd, shared.size)
                os.fchmod(fd, memfd.mode)
                os.fchown(fd, memfd.uid, memfd.gid)
            self._objects[object_id] = fd
        return self._objects[object_id]

    def make_deleted(self, chunks: Callable[[frozenset[int]], Iterable[Chunk]]) -> None:
        """Make every file again that has lost its name, with its content.

        Args:
            chunks: Gives the chunks of these objects, which come next in the image.
        """
        ghosts = {ghost.object_id: ghost for ghost in self.all_of(DeletedFile)}
        left = [g for g in ghosts.values() if g.object_id not in self._ghosts.paths]
        if any(ghost.mount_id or ghost.fs_id for ghost in left):
            raise RestoreError(
                "the image holds a removed file of a mount that it lacks",
                reason="image-inconsistent",
            )
        with contextlib.ExitStack() as undo:
            make_ghosts(self._root_fd, left, self._ghosts, undo)
        for chunk in chunks(frozenset(ghosts)):
            fill_ghost(self._ghosts.paths[chunk.object_id], chunk)
        for object_id, ghost in ghosts.items():
            finish_ghost(self._ghosts.paths[object_id], ghost)

    def make_deleted_of(
        self, top: int, ghosts: Sequence[DeletedFile], undo: contextlib.ExitStack
    ) -> None:
        """Make files below *top*, without their content; *undo* takes their names away."""
        fresh = [ghost for ghost in ghosts if ghost.object_id not in self._ghosts.paths]
        make_ghosts(top, fresh, self._ghosts, undo)

    def open(self, record: RegularFile | Pipe, flags: int) -> int:
        """Open a file that has a name, on the mount where it was.

        Raises:
            OSError: As openat2(2).
            RestoreError: The image lacks the mount.
        """
        if not (record.mount_id and self.arranged):
            return open_inside(self.root, record.path, flags)
        hidden = self.hidden.get((record.mount_id, record.inner))
        if hidden is not None:
            return open_again(hidden, flags)
        if record.mount_id not in self.tops:
            raise RestoreError(
                f"{record.path} is on mount {record.mount_id}, which the image lacks",
                reason="image-inconsistent",
            )
        return open_inside(f"/proc/self/fd/{self.tops[record.mount_id]}", record.inner, flags)

    def open_deleted(self, object_id: int, flags: int) -> int:
        """A description of its own of a file that has lost its name."""
        return self._ghosts.open(object_id, flags)

    def content_fd(self, object_id: int) -> int | None:
        """Our descriptor for a content object, or None if it is not one of files."""
        return self._objects.get(object_id)

    # Tasks

    def take_from_init(self, fd: int) -> int:
        """Move descriptor *fd* of the init into ours."""
        return self.take_from(self.init, fd)

    def take_from(self, tracee: NewTask, fd: int) -> int:
        """Move descriptor *fd* of a process into ours."""
        if tracee is self.init:
            ours = pidfd.get_fd(self._init_pidfd, fd)
        else:
            process = pidfd.open_pidfd(tracee.pid)
            try:
                ours = pidfd.get_fd(process, fd)
            finally:
                os.close(process)
        batch = Batch()
        batch.call("close", fd)
        tracee.run(batch)
        return ours

    def holder(self, file_id: int, ns_pid: int) -> tuple[NewTask, int]:
        """A number of the file in the process whose pid inside is *ns_pid*."""
        for pid, table in self.tables.items():
            if self.ns_pids[pid] == ns_pid:
                for fd, held in table.items():
                    if held == file_id:
                        return self.tracees[pid], fd
        raise RestoreError(f"process {ns_pid} holds a lock on a file that it does not have open")

    # The end

    def close_later(self, fd: int) -> None:
        """Close a descriptor of ours when every process has its own."""
        self._close_later.append(fd)

    def close_early(self, fd: int) -> None:
        """Close such a descriptor now."""
        self._close_later.remove(fd)
        os.close(fd)

    def close(self) -> None:
        """Close every descriptor of ours."""
        held = {*self.fds.values(), *self._objects.values(), *self._close_later}
        held |= {*self.tun_queues.values()}
        held |= {self._init_pidfd, self._root_fd, *(base.fd for base in self.file_systems.values())}
        held |= {*self.tops.values(), *self.hidden.values()}
        held |= {*self.posix_queues.values()}
        self._ghosts.close()
        for fd in held:
            os.close(fd)
        self.fds.clear()
        self._objects.clear()
        self._close_later.clear()
        self.tun_queues.clear()
        self.posix_queues.clear()
        for callback in self._when_closed:
            callback()
        self._when_closed.clear()

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Call *callback* when we have closed everything else: the last that a restore does."""
        self._when_closed.append(callback)
