"""All descriptors and mapped files of a container: which are the same, and one record for each."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

from formats.records.codec import Record
from formats.records.files import DeletedFile, Owner, RegularFile
from formats.records.memory import SharedMemory
from formats.records.task import Descriptor
from runtime.engine.context import DumpContext
from runtime.engine.files.ghosts import describe_deleted
from runtime.engine.files.inodes import find_inode, search
from runtime.engine.files.kind import Kind, Look, file_type, kind_of, load_kinds
from runtime.engine.files.mounts import DELETED, Mounted, MountTable, below_top, mount_of
from runtime.engine.sandbox.kind import Scope
from runtime.kernel import kcmp, pidfd, proc_fdinfo
from runtime.kernel.mountinfo import Mount
from runtime.kernel.proc_maps import Mapping

SAVED = (
    (
        "descriptors",
        "shared between processes and duplicated, with one offset; close-on-exec; descriptor "
        "tables shared by processes",
    ),
)
REFUSED = (
    ("mount-detached", "a file on a mount that was detached and that nothing leads to any more"),
    (
        "fd-kind",
        "descriptors of other kinds: io_uring, userfaultfd, perf events, BPF programs, …",
    ),
    ("file-other-name", "a file that lost its name, and whose other name cannot be found"),
    (
        "file-outside",
        "a file, or a FIFO without a name, that cannot be reached by its name inside",
    ),
)

T = TypeVar("T")

F_GETOWN_EX = 16  # include/uapi/asm-generic/fcntl.h
F_GETSIG = 11


class Located(NamedTuple):
    """Where a restore finds a file.

    Attributes:
        path: Inside the container.
        deleted_object_id: For one that lost that name: its `DeletedFile`, else 0.
        mount_id: The record of the mount it is on, where the path alone does not tell.
        inner: Its path relative to the top of that.
        hidden: Whether something is mounted over it.
    """

    path: str
    deleted_object_id: int = 0
    mount_id: int = 0
    inner: str = ""
    hidden: bool = False


class FileTable:
    """Collects files while a container is dumped.

    Attributes:
        context: The dump.
        mounts: The container's mounts.
        records: One per open file description, in the order of their ids.
        shared: Shared-memory objects with a path to open each by.
        segments: System V segments by IPC namespace and id, the ids of their objects.
        deleted: Files that lost their name with a path to open each by.
        at_last: Makers of records that touch what they look at, if only for a moment: they are
            called when nothing is refused any more.
    """

    def __init__(self, context: DumpContext) -> None:
        self.context = context
        self.mounts = MountTable(context.target.init_pid)
        self.records: list[Record] = []
        self.shared: dict[tuple[int, int], tuple[SharedMemory, str]] = {}
        self.deleted: dict[tuple[int, int], tuple[DeletedFile, str]] = {}
        self.segments: dict[tuple[int, int], int] = {}
        self.queue_scopes: dict[int, Scope] = {}
        self.posix_queues: dict[tuple[int, int], int] = {}
        self.looks: dict[int, list[Look]] = {}
        self.at_last: list[Callable[[], Record]] = []
        self._by_path: dict[tuple[str, int, int, int, int], int] = {}
        self._mapped: dict[tuple[str, tuple[int, int], int, int], int] = {}
        self._pidfds: dict[int, int] = {}
        self._file_ids: dict[tuple[int, int], int] = {}
        self._alike: dict[tuple[int | str, ...], list[int]] = {}
        self._held: list[int] = []
        self._when_closed: list[Callable[[], None]] = []
        self._once: dict[object, Any] = {}

    @property
    def root(self) -> str:
        """The container's root, as a path of ours."""
        return f"/proc/{self.context.target.init_pid}/root"

    def once(self, key: object, make: Callable[[], T]) -> T:
        """The result of *make*, made at the first call with this *key*."""
        if key not in self._once:
            self._once[key] = make()
        result: T = self._once[key]
        return result

    def made(self, key: object) -> Any:
        """What `once` has made for *key*, or None."""
        return self._once.get(key)

    def close(self) -> None:
        """Close the descriptors that were opened for looking."""
        for fd in self._pidfds.values():
            os.close(fd)
        self._pidfds.clear()
        for fd in self._held:
            os.close(fd)
        self._held.clear()
        for callback in self._when_closed:
            callback()
        self._when_closed.clear()

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Call *callback* when the dump has looked at everything, and has closed it again."""
        self._when_closed.append(callback)

    def keep_open(self, fd: int) -> str:
        """Keep a descriptor of ours until the dump is done; returns a path to open it again by."""
        self._held.append(fd)
        return f"/proc/self/fd/{fd}"

    # Descriptors

    def collect(self, pids: list[int]) -> None:
        """Look at every descriptor of the processes *pids* and make the records.

        Args:
            pids: One process per descriptor table.
        """
        kinds = load_kinds()
        fresh = self._enter([look for pid in pids for look in self._looks(pid)])
        found: list[tuple[int, Look, Kind | None]] = []
        while fresh:
            inside: list[Look] = []
            for file_id, look in fresh:
                kind = next((kind for kind in kinds if kind.matches(self, look)), None)
                found.append((file_id, look, kind))
                if kind is not None:
                    inside += kind.inside(self, look)
            # What is on its way through a socket may itself be one with something in it.
            fresh = self._enter(inside)
        for file_id, look, kind in found:
            if kind is None:
                self.refuse(look, "fd-kind", f"is {_a(look)}, which wherry cannot save")
            elif (record := kind.dump(self, look, file_id)) is not None:
                self.records.append(record)

    def _enter(self, looks: list[Look]) -> list[tuple[int, Look]]:
        """Give every description a number; returns those that had none, one descriptor of each."""
        fresh = []
        likely: dict[tuple[int | str, ...], list[Look]] = {}
        for look in looks:
            likely.setdefault(_likeness(look), []).append(look)
        for key, candidates in likely.items():
            known = self._alike.setdefault(key, [])
            groups = (
                [candidates]
                if len(candidates) == 1
                else kcmp.group_same(candidates, _compare_files)
            )
            new: list[int] = []
            for group in groups:
                file_id = self._known(known, group[0])
                if file_id is None:
                    file_id = self.context.new_id()
                    new.append(file_id)
                    fresh.append((file_id, group[0]))
                    self.looks[file_id] = []
                self.looks[file_id] += group
                for look in group:
                    self._file_ids[look.pid, look.fd] = file_id
            known += new
        return fresh

    def _known(self, candidates: list[int], look: Look) -> int | None:
        for file_id in candidates:
            if _compare_files(self.looks[file_id][0], look) == 0:
                return file_id
        return None

    def _looks(self, pid: int) -> Iterator[Look]:
        for fd in proc_fdinfo.descriptors(pid):
            look = self._look(pid, fd, partial(self._duplicate, pid, fd))
            mount_id = look.info.mount_id if look.link.startswith("/") else 0
            if mount_id and not self.mounts.holds(mount_id):
                self._take_for_twin(look, mount_id)
            yield look

    def _take_for_twin(self, look: Look, mount_id: int) -> None:
        """Let a file on a mount of no namespace count as the same one where that is mounted."""
        twin = self._twin(look.pid, look.proc_path, look.stat, mount_id)
        if twin is not None:
            mount, look.link = twin
            look.info["mnt_id"] = [str(mount.mount_id)]

    def _twin(
        self, pid: int, magic: str, status: os.stat_result, mount_id: int
    ) -> tuple[Mount, str] | None:
        namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
        path = os.readlink(magic)
        # Standard streams from outside are no such files, and every process has them.
        key = "twin", namespace, mount_id, path, status.st_dev, status.st_ino
        return self.once(
            key, lambda: self.mounts.twin(namespace, path, magic, status, f"/proc/{pid}/exe")
        )

    def held(self, fd: int, where: str) -> Look:
        """A look at a descriptor of ours, which a dump found outside of every descriptor table.

        Args:
            fd: The table closes it in the end.
            where: For messages.
        """
        self._held.append(fd)
        return self._look(os.getpid(), fd, partial(os.dup, fd), where)

    @staticmethod
    def _look(pid: int, fd: int, duplicate: Callable[[], int], where: str = "") -> Look:
        path = f"/proc/{pid}/fd/{fd}"
        return Look(
            pid=pid,
            fd=fd,
            link=os.readlink(path),
            stat=os.stat(path),
            info=proc_fdinfo.fdinfo(pid, fd),
            duplicate=duplicate,
            where=where,
        )

    def _duplicate(self, pid: int, fd: int) -> int:
        if pid not in self._pidfds:
            # A thread may have a table of its own.
            flags = 0 if self.context.frozen.tracees[pid].pid == pid else pidfd.PIDFD_THREAD
            self._pidfds[pid] = pidfd.open_pidfd(pid, flags)
        return pidfd.get_fd(self._pidfds[pid], fd)

    def descriptors(self, pid: int) -> tuple[Descriptor, ...]:
        """The descriptor table of a process that `collect` has seen."""
        tables: dict[int, list[Descriptor]] = self.once("tables", self._tables)
        return tuple(tables.get(pid, ()))

    def _tables(self) -> dict[int, list[Descriptor]]:
        found: dict[int, list[Descriptor]] = {}
        for file_id, group in self.looks.items():
            for look in group:
                cloexec = bool(look.info.flags & os.O_CLOEXEC)
                cloexec = cloexec and (look.pid, look.fd) not in self.context.inherited
                found.setdefault(look.pid, []).append(Descriptor(look.fd, file_id, cloexec))
        return found

    def file_id(self, pid: int, fd: int) -> int | None:
        """The record behind a descriptor, if there is one."""
        return self._file_ids.get((pid, fd))

    def refuse(self, look: Look, reason: str, sentence: str) -> None:
        """Note that a descriptor cannot be saved."""
        subject = (
            f"{look.where} ({look.link})"
            if look.where
            else self.context.subject(look.pid, f"fd {look.fd} ({look.link})")
        )
        self.context.refuse(reason, subject, sentence)

    def owner(self, look: Look) -> Owner | None:
        """Who gets SIGIO for a file, if anybody."""
        fd = look.duplicate()
        try:
            kind, pid = struct.unpack("ii", fcntl.fcntl(fd, F_GETOWN_EX, bytes(8)))
            sig = fcntl.fcntl(fd, F_GETSIG)
        except OSError as exc:
            if exc.errno in (errno.EBADF, errno.EINVAL):  # O_PATH, or nobody
                return None
            raise
        finally:
            os.close(fd)
        if not pid and not sig:
            return None
        return Owner(kind, self.context.ns_pids.get(pid, 0), sig)

    def same_inode(self, look: Look) -> list[Look]:
        """Every descriptor of the container for the same inode: all ends of a pipe."""
        return self.with_inode(look.stat.st_dev, look.stat.st_ino)

    def with_inode(self, device: int, inode: int) -> list[Look]:
        """Every descriptor of the container for an inode."""
        inodes: dict[tuple[int, int], list[Look]] = self.once("inodes", self._by_inode)
        return inodes.get((device, inode), [])

    def _by_inode(self) -> dict[tuple[int, int], list[Look]]:
        found: dict[tuple[int, int], list[Look]] = {}
        for group in self.looks.values():
            for look in group:
                found.setdefault((look.stat.st_dev, look.stat.st_ino), []).append(look)
        return found

    @property
    def living(self) -> frozenset[str]:
        """Ids of the container's tasks as it sees them, as /proc writes them."""
        return self.once("living", lambda: frozenset(map(str, self.context.ns_pids.values())))

    @property
    def socket_inodes(self) -> frozenset[int]:
        """Inode numbers of the container's open sockets."""
        return self.once("sockets", self._socket_inodes)

    def _socket_inodes(self) -> frozenset[int]:
        looks = (group[0] for group in self.looks.values())
        return frozenset(look.stat.st_ino for look in looks if stat.S_ISSOCK(look.stat.st_mode))

    def find_inode(self, device: int, inode: int) -> str | None:
        """A path inside the container for an inode that no descriptor holds."""
        return find_inode(self, device, inode)

    # Files behind mappings

    def is_shared_memory(self, mapping: Mapping) -> bool:
        """Whether a mapping's object has no path: memfd, shared anonymous memory."""
        path = mapping.path
        return path.startswith(("/memfd:", "[anon_shmem:")) or (
            path in ("/dev/zero (deleted)", "/anon_hugepage (deleted)") and mapping.shared
        )

    def add_shared_memory(self, pid: int, mapping: Mapping) -> int:
        """The object behind a mapping of nameless shared memory."""
        return self.shared_memory(f"/proc/{pid}/map_files/{mapping.map_file}")

    def shared_memory(self, path: str) -> int:
        """The shared-memory object that *path* opens."""
        status = os.stat(path)
        key = (status.st_dev, status.st_ino)
        if key not in self.shared:
            shared = SharedMemory(self.context.new_id(), status.st_size, huge_page_size(path))
            self.shared[key] = (shared, path)
        return self.shared[key][0].object_id

    def segment(self, pid: int, mapping: Mapping) -> int:
        """The object behind a mapping of System V memory; 0 after refusing it."""
        namespace = os.stat(f"/proc/{pid}/ns/ipc").st_ino
        if (namespace, mapping.inode) not in self.segments:
            subject = self.context.subject(pid, f"mapping {mapping.map_file} {mapping.path}")
            sentence = "is a shared memory segment that is not the container's"
            self.context.refuse("ipc-outside", subject, sentence)
            return 0
        return self.segments[namespace, mapping.inode]

    def add_mapped_file(self, pid: int, mapping: Mapping) -> int:
        """The file record behind a mapping."""
        writable = mapping.shared and "mw" in mapping.vm_flags
        flags = os.O_RDWR if writable else os.O_RDONLY
        # The device may be another than stat(2) says, but it tells files apart as well.
        key = (mapping.path, mapping.device, mapping.inode, flags)
        if key not in self._mapped:
            magic = f"/proc/{pid}/map_files/{mapping.map_file}"
            what = f"mapping {mapping.map_file}"
            self._mapped[key] = self._add_path(pid, mapping.path, magic, flags, what)
        return self._mapped[key]

    def mapped_socket(self, mapping: Mapping) -> int | None:
        """The record of an open socket behind a mapping: a packet socket's rings, for instance."""
        if not mapping.path.startswith("socket:["):
            return None
        links: dict[str, int] = self.once(
            "socket links", lambda: {group[0].link: n for n, group in self.looks.items()}
        )
        return links.get(mapping.path)

    def is_on_root(self, file_id: int, magic: str) -> bool:
        """Whether the mapped file that *magic* opens lies on the container's root file system.

        Asked once per file record: the answer is the same for all its mappings.
        """
        return self.once(("on-root", file_id), lambda: self._is_on_root(magic))

    def _is_on_root(self, magic: str) -> bool:
        if os.readlink(magic).endswith(DELETED) or mount_of(magic) != self.mounts.root_id:
            return False
        entry = self.mounts.entries.get(self.mounts.root_id)
        return entry is None or entry.is_given

    def add_executable(self, pid: int) -> int:
        """The file record of a process's program."""
        link = os.readlink(f"/proc/{pid}/exe")
        return self._add_path(pid, link, f"/proc/{pid}/exe", os.O_RDONLY, "program")

    def add_directory(self, pid: int, which: str) -> int:
        """The file record of a process's working directory ("cwd") or root ("root")."""
        magic = f"/proc/{pid}/{which}"
        return self._add_path(pid, os.readlink(magic), magic, os.O_PATH | os.O_DIRECTORY, which)

    def _add_path(self, pid: int, path: str, magic: str, flags: int, what: str) -> int:
        status = os.stat(magic)
        # The same file may have the same path in several namespaces.
        mount_id = mount_of(magic) if self.mounts.entries else 0
        key = (path, mount_id, status.st_dev, status.st_ino, flags)
        if key in self._by_path:
            return self._by_path[key]
        file_id = self._by_path[key] = self.context.new_id()
        found = self.locate(f"{what} ({path})", pid, path, magic, status) or Located(path)
        self.records.append(
            RegularFile(
                file_id=file_id,
                path=found.path,
                flags=flags,
                position=0,
                kind=kind_of(status.st_mode),
                size=status.st_size if stat.S_ISREG(status.st_mode) else -1,
                deleted_object_id=found.deleted_object_id,
                device=status.st_rdev,
                mount_id=found.mount_id,
                inner=found.inner,
                hidden=found.hidden,
            )
        )
        return file_id

    def locate(
        self, what: str, pid: int, path: str, magic: str, status: os.stat_result
    ) -> Located | None:
        """Where a restore finds a file.

        Args:
            what: How messages name it.
            pid: The process that has it.
            path: What the kernel says of it, with ``(deleted)`` where that is so.
            magic: A link of /proc that leads to it.
            status: stat(2) of it.

        Returns:
            None after refusing it.
        """
        subject = self.context.subject(pid, what)
        mount_id = mount_of(magic)
        entry = self.mounts.entries.get(mount_id)
        if entry is None and (self.mounts.entries or not self.mounts.holds(mount_id)):
            twin = self._twin(pid, magic, status, mount_id)
            if twin is not None:
                mount_id, path = twin[0].mount_id, twin[1]
                entry = self.mounts.entries.get(mount_id)
            elif self.mounts.entries:
                self.context.refuse(
                    "mount-detached", subject, "is on a mount that nothing leads to"
                )
                return None
        mount = self.mounts.get(mount_id)
        if status.st_nlink and path.endswith(DELETED) and mount and mount.fstype == "proc":
            # Whoever looks below /proc/PID/net makes the kernel forget who looked there before.
            path = path.removesuffix(DELETED)
        found = self._find(entry, path, status)
        is_marked = path.endswith(DELETED)
        if found is not None and (status.st_nlink or not is_marked):
            return found
        if is_marked or not status.st_nlink:
            path = path.removesuffix(DELETED)
            deleted = self._locate_deleted(subject, entry, path, magic, status)
            return None if deleted is None else Located(path, deleted)
        self.context.refuse(
            "file-outside", subject, "is not reachable by its name inside the container"
        )
        return None

    def _find(self, entry: Mounted | None, path: str, status: os.stat_result) -> Located | None:
        if entry is None:
            return Located(path) if self.mounts.reaches(path, status) else None
        found = self.mounts.find(entry, path, status)
        return None if found is None else Located(path, 0, entry.number, *found)

    def _locate_deleted(
        self,
        subject: str,
        entry: Mounted | None,
        path: str,
        magic: str,
        status: os.stat_result,
    ) -> int | None:
        key = (status.st_dev, status.st_ino)
        if key not in self.deleted:
            other = None
            if status.st_nlink and not stat.S_ISDIR(status.st_mode):
                other = self._other_name(entry, key)
                if other is None:
                    self.context.refuse(
                        "file-other-name",
                        subject,
                        "lost the name it was opened by, and its other name cannot be found",
                    )
                    return None
            record = describe_deleted(self.context.new_id(), path, magic, status, other or "")
            if entry is not None:
                record = dataclasses.replace(
                    record, mount_id=entry.number, inner=below_top(entry.mount, path)
                )
            self.deleted[key] = (record, magic)
        return self.deleted[key][0].object_id

    def _other_name(self, entry: Mounted | None, key: tuple[int, int]) -> str | None:
        if entry is None:
            return self.find_inode(*key)
        if entry.top < 0:
            return None
        found = search(f"/proc/self/fd/{entry.top}", "/", *key)
        return None if found is None else found.lstrip("/")

    def find_elsewhere(self, device: int, inode: int) -> tuple[str, int] | None:
        """An inode that only another mount namespace has, or that is covered; its path and record.

        A restore opens it for its path only.
        """
        for entry in self.mounts.entries.values():
            if entry.mount.device != device or entry.top < 0:
                continue
            top = f"/proc/self/fd/{entry.top}"
            is_top = os.stat(top).st_ino == inode
            inner = "/" if is_top else search(top, "/", device, inode)
            if inner is None:
                continue
            status = os.stat(top + inner, follow_symlinks=is_top)
            path = f"{entry.mount.point.rstrip('/')}{inner}".rstrip("/") or "/"
            found = self._find(entry, path, status)
            if found is None:
                continue
            file_id = self.context.new_id()
            self.records.append(
                RegularFile(
                    file_id=file_id,
                    path=path,
                    flags=os.O_PATH | os.O_NOFOLLOW,
                    position=0,
                    kind=kind_of(status.st_mode),
                    device=status.st_rdev,
                    mount_id=found.mount_id,
                    inner=found.inner,
                    hidden=found.hidden,
                )
            )
            return path, file_id
        return None

    def add_deleted_top(self, path: str, magic: str, fs_id: int) -> int:
        """The record of the top of a mount that has lost its name in its file system."""
        status = os.stat(magic)
        key = (status.st_dev, status.st_ino)
        if key not in self.deleted:
            record = describe_deleted(self.context.new_id(), path, magic, status, "")
            record = dataclasses.replace(record, inner=path.strip("/"), fs_id=fs_id)
            self.deleted[key] = (record, magic)
        return self.deleted[key][0].object_id

    def mark_unnamed(self, look: Look) -> None:
        """Note that a file without a name was made so, and may be given one."""
        key = (look.stat.st_dev, look.stat.st_ino)
        record, magic = self.deleted[key]
        self.deleted[key] = (dataclasses.replace(record, unnamed_flags=look.flags), magic)


def huge_page_size(path: str) -> int:
    """Bytes of the pages of a file of hugetlbfs; 0 for other memory."""
    # statfs(2) of hugetlbfs tells the size of its pages; that of tmpfs is an ordinary page.
    block = os.statvfs(path).f_bsize
    return block if block > mmap.PAGESIZE else 0


def open_again(path: str) -> int:
    """Open a file anew by a /proc link: a description of our own, whose offset is ours."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)


def _likeness(look: Look) -> tuple[int | str, ...]:
    """What two descriptors of one description have in common, and two others seldom."""
    # Nameless kinds share one inode; eventfds are numbered.
    number = look.info["eventfd-id"][0] if "eventfd-id" in look.info else ""
    return look.stat.st_dev, look.stat.st_ino, look.flags, look.info.position, number


def _compare_files(a: Look, b: Look) -> int:
    return kcmp.kcmp(a.pid, b.pid, kcmp.KCMP_FILE, a.fd, b.fd)


def _a(look: Look) -> str:
    if look.is_anonymous_inode:
        return f"a {look.link.removeprefix('anon_inode:').strip('[]')} descriptor"
    return f"a {file_type(look.stat.st_mode)}"
