"""Open files, by kind. A file record is an open file description, not a path.

Every record starts with ``file_id``, which descriptors and mappings name.
"""

from __future__ import annotations

from dataclasses import dataclass

from formats.records.codec import record


@dataclass(frozen=True, slots=True)
class FileLock:
    """A lock held through a file: fcntl(2) and flock(2).

    Attributes:
        kind: "posix", "ofd", "flock" or "lease".
        write: Exclusive.
        start: First byte.
        length: Bytes; 0 to the end of the file.
        pid: Owner of a "posix" lock or a lease, in the container's namespace.
        breaking: A lease that somebody waits for to end; then ``write`` says what it was.
        down_to: What a lease that is breaking may become: 0 (F_RDLCK) or 2 (F_UNLCK).
    """

    kind: str
    write: bool
    start: int
    length: int
    pid: int
    breaking: bool = False
    down_to: int = 2


@dataclass(frozen=True, slots=True)
class Owner:
    """Who gets SIGIO: fcntl(2) F_SETOWN_EX and F_SETSIG."""

    kind: int
    pid: int
    signal: int


@record("file-regular")
@dataclass(frozen=True, slots=True)
class RegularFile:
    """A regular file, directory, FIFO end or device opened by path.

    Attributes:
        file_id: Id.
        path: In the container.
        flags: open(2) flags without O_CREAT, O_EXCL, O_TRUNC, O_CLOEXEC.
        position: File offset in bytes.
        kind: "file", "directory", "device", "special" (procfs, sysfs), or "dead-process" for a
            file of /proc of a process that is gone.
        size: Bytes at the freeze; -1 where that means nothing.
        deleted_object_id: For a file that lost its name: the `DeletedFile`, or 0.
        locks: Held through this description.
        owner: SIGIO's, or None.
        device: Of a device node, as os.makedev makes it.
        write_hint: fcntl(2) F_SET_RW_HINT of its inode.
        opener: Process in the container that has to open it, for what each sees a file of its
            own; 0 for anybody.
        mount_id: The `formats.records.mounts.MountPoint` it is on, where the path alone does not
            tell; else 0.
        inner: Then, its path relative to the top of that mount.
        hidden: Then, whether something is mounted over it.
    """

    file_id: int
    path: str
    flags: int
    position: int
    kind: str
    size: int = -1
    deleted_object_id: int = 0
    locks: tuple[FileLock, ...] = ()
    owner: Owner | None = None
    device: int = 0
    write_hint: int = 0
    opener: int = 0
    mount_id: int = 0
    inner: str = ""
    hidden: bool = False


@record("deleted-file")
@dataclass(frozen=True, slots=True)
class DeletedFile:
    """A file of any type that has lost the name it was opened by.

    The content of a regular file without any name is the chunks of object ``object_id``.

    Attributes:
        object_id: Chunk offsets are file offsets.
        path: Where it was; it comes back with this name free.
        size: Bytes of a regular file.
        mode: Type and permission bits.
        uid: Owner.
        gid: Group.
        atime_ns: Last access.
        mtime_ns: Last change.
        device: Of a device node.
        target: Of a symbolic link.
        xattrs: Extended attributes.
        other_name: Path of another name that it still has, or empty; then that is the file.
        unnamed_flags: open(2) flags of the description that has made it without any name
            (O_TMPFILE), so that it may still be given one; else 0.
        mount_id: The `formats.records.mounts.MountPoint` it was on, where the path alone does not
            tell; else 0. Then ``inner`` and ``other_name`` are relative to the top of that.
        inner: Where it was.
        fs_id: For the top of a mount: the file system, in which ``inner`` is its path.
    """

    object_id: int
    path: str
    size: int
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    device: int = 0
    target: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    other_name: str = ""
    unnamed_flags: int = 0
    mount_id: int = 0
    inner: str = ""
    fs_id: int = 0


@record("file-memfd")
@dataclass(frozen=True, slots=True)
class MemFd:
    """A description of a memfd_create(2) file or of another shared-memory object.

    Attributes:
        file_id: Id.
        object_id: The `SharedMemory` with its content.
        name: As given to memfd_create(2).
        flags: open(2) flags.
        position: Bytes.
        seals: ``F_SEAL_*``.
        mode: Permission bits.
        owner: SIGIO's, or None.
        hidden: Whether it is an anonymous shared mapping's, not a memfd.
        uid: Owner.
        gid: Group.
    """

    file_id: int
    object_id: int
    name: str
    flags: int
    position: int
    seals: int
    mode: int
    owner: Owner | None = None
    uid: int = 0
    gid: int = 0


@record("pipe")
@dataclass(frozen=True, slots=True)
class Pipe:
    """A pipe or FIFO with what is in it.

    Attributes:
        pipe_id: Id.
        capacity: Bytes, fcntl(2) F_GETPIPE_SZ.
        content: Bytes in it.
        packets: Sizes of the single packets in O_DIRECT mode, else empty.
        path: Of a FIFO in the container, else empty.
        uid: Owner of an unnamed pipe.
        gid: Group of an unnamed pipe.
        deleted_object_id: For a FIFO that lost its name: the `DeletedFile`, or 0.
        mount_id: As of a `RegularFile`.
        inner: As of a `RegularFile`.
        hidden: As of a `RegularFile`.
    """

    pipe_id: int
    capacity: int
    content: bytes
    packets: tuple[int, ...] = ()
    path: str = ""
    uid: int = 0
    gid: int = 0
    deleted_object_id: int = 0
    mount_id: int = 0
    inner: str = ""
    hidden: bool = False


@record("file-pipe")
@dataclass(frozen=True, slots=True)
class PipeEnd:
    """One description of an end of a pipe or FIFO.

    Attributes:
        file_id: Id.
        pipe_id: The pipe.
        flags: open(2) flags.
        owner: SIGIO's, or None.
        lonely: A FIFO's reader that has never had a writer: it sees no hang-up.
    """

    file_id: int
    pipe_id: int
    flags: int
    owner: Owner | None = None
    lonely: bool = False


@record("file-eventfd")
@dataclass(frozen=True, slots=True)
class EventFd:
    """eventfd(2)."""

    file_id: int
    flags: int
    count: int
    semaphore: bool
    owner: Owner | None = None


@record("file-signalfd")
@dataclass(frozen=True, slots=True)
class SignalFd:
    """signalfd(2); ``mask`` has bit n-1 for signal n."""

    file_id: int
    flags: int
    mask: int
    owner: Owner | None = None


@record("file-timerfd")
@dataclass(frozen=True, slots=True)
class TimerFd:
    """timerfd_create(2); times in nanoseconds, ``value_ns`` is the time left.

    ``end_ns`` is when it expires, on its clock, for one that was set to an absolute time.
    """

    file_id: int
    flags: int
    clock: int
    ticks: int
    settime_flags: int
    value_ns: int
    interval_ns: int
    owner: Owner | None = None
    end_ns: int = 0


@dataclass(frozen=True, slots=True)
class EpollItem:
    """One watched descriptor: its number, events, user data, and the file record behind it."""

    fd: int
    events: int
    data: int
    file_id: int


@record("file-epoll")
@dataclass(frozen=True, slots=True)
class Epoll:
    """epoll(7).

    Attributes:
        file_id: Id.
        flags: open(2) flags.
        items: Watched descriptors.
        owner: SIGIO's, or None.
        ready: Whether it had events to give: else every edge so far has been seen.
        busy_poll: Microseconds, budget and preference of busy polling (EPIOCSPARAMS).
    """

    file_id: int
    flags: int
    items: tuple[EpollItem, ...]
    owner: Owner | None = None
    ready: bool = True
    busy_poll: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class InotifyWatch:
    """One inotify(7) watch.

    Attributes:
        wd: Watch descriptor.
        path: What it watches, in the container.
        mask: Events and flags.
        file_id: For what has no name left: an open file of it, else 0.
    """

    wd: int
    path: str
    mask: int
    file_id: int = 0


@record("file-inotify")
@dataclass(frozen=True, slots=True)
class Inotify:
    """inotify(7)."""

    file_id: int
    flags: int
    watches: tuple[InotifyWatch, ...]
    owner: Owner | None = None


@dataclass(frozen=True, slots=True)
class FanotifyMark:
    """One fanotify(7) mark.

    Attributes:
        kind: "inode", "mount" or "filesystem".
        path: What it is on, in the container; of a mount or file system, its top.
        mask: Events.
        ignored: Events that are ignored.
        flags: ``FAN_MARK_*`` that qualify it.
        file_id: Where the path does not tell: a file of it, else 0.
    """

    kind: str
    path: str
    mask: int
    ignored: int
    flags: int
    file_id: int = 0


@record("file-fanotify")
@dataclass(frozen=True, slots=True)
class Fanotify:
    """A fanotify(7) group.

    Attributes:
        file_id: Id.
        flags: open(2) flags.
        init_flags: ``FAN_*`` that it was made with.
        event_flags: open(2) flags of the descriptors that come with events.
        privileged: Whether its owner had CAP_SYS_ADMIN, on which it depends what events tell.
        marks: What it watches.
        owner: SIGIO's, or None.
    """

    file_id: int
    flags: int
    init_flags: int
    event_flags: int
    privileged: bool
    marks: tuple[FanotifyMark, ...]
    owner: Owner | None = None


@record("file-external")
@dataclass(frozen=True, slots=True)
class ExternalFile:
    """A descriptor that came from outside, to be given anew at restore.

    Attributes:
        file_id: Id.
        name: "stdin", "stdout" or "stderr".
        flags: open(2) flags.
        description: What it was, for people.
        session: Whether it is an exec session's, whose caller does not come along.
    """

    file_id: int
    name: str
    flags: int
    description: str
    owner: Owner | None = None
    session: bool = False


@record("file-given")
@dataclass(frozen=True, slots=True)
class GivenFile:
    """A descriptor that a restore is given under a name that the checkpoint was told.

    Attributes:
        file_id: Id.
        key: The name.
        flags: open(2) flags.
        description: What it was, for people.
    """

    file_id: int
    key: str
    flags: int
    description: str


@record("tree")
@dataclass(frozen=True, slots=True)
class Tree:
    """A directory tree carried by the image.

    Attributes:
        tree_id: Id.
        kind: "overlay" (an upper directory) or "tmpfs".
        path: Mount point in the container.
        fs_id: The file system, as `formats.records.mounts.MountPoint` names it; 0 for what is
            mounted on ``path``.
        root: Then, which of its directories the top is.
        device: The st_dev that its files have inside; 0 if not known.
    """

    tree_id: int
    kind: str
    path: str
    fs_id: int = 0
    root: str = "/"
    device: int = 0


@record("inode")
@dataclass(frozen=True, slots=True)
class Inode:
    """One file of a tree.

    Attributes:
        tree_id: The tree.
        path: Relative to the tree's top; "." is the top itself. Hard links share ``link``.
        mode: Type and permission bits.
        uid: Owner.
        gid: Group.
        mtime_ns: Last change.
        size: Bytes of a regular file.
        object_id: Content chunks of a regular file, or 0 for an empty one.
        target: Of a symbolic link.
        device: Of a device node; an overlay's whiteout is device 0.
        link: Path of the earlier name of the same file, or empty.
        xattrs: Extended attributes; an overlay's own are among them.
        number: Of the inode, st_ino; 0 if not known.
    """

    tree_id: int
    path: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    object_id: int = 0
    target: str = ""
    device: int = 0
    link: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    atime_ns: int = 0
    number: int = 0
