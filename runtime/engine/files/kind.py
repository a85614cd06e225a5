"""What a kind of file descriptor is to the engine, and the register of kinds."""

from __future__ import annotations

import importlib
import os
import pkgutil
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from formats.records.codec import Record
from formats.records.files import Owner
from runtime.kernel.proc_fdinfo import FdInfo

if TYPE_CHECKING:
    from runtime.engine.files.restored import RestoredFiles
    from runtime.engine.files.table import FileTable

# Flags that open(2) takes but an open file does not keep, or that belong to the descriptor
TRANSIENT_FLAGS = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC | os.O_CLOEXEC
O_LARGEFILE = 0o100000  # always set by 64-bit kernels, never needed

SPECIAL = frozenset({"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue"})


@dataclass(slots=True)
class Look:
    """One descriptor of a stopped process, and what can be seen of it from outside.

    Attributes:
        pid: In our own pid namespace.
        fd: Number in the process.
        link: What /proc/PID/fd/FD points at.
        stat: fstat(2) of the file.
        info: /proc/PID/fdinfo/FD.
        duplicate: Gives a descriptor of ours for the same open file description.
        where: How a message names it when no process has it: "queued in ...".
    """

    pid: int
    fd: int
    link: str
    stat: os.stat_result
    info: FdInfo
    duplicate: Callable[[], int]
    where: str = ""

    @property
    def flags(self) -> int:
        """open(2) flags worth restoring."""
        return self.info.flags & ~(TRANSIENT_FLAGS | O_LARGEFILE)

    @property
    def is_anonymous_inode(self) -> bool:
        """Whether it is one of the kernel's nameless kinds."""
        return self.link.startswith("anon_inode:")

    @property
    def proc_path(self) -> str:
        """The magic link to the file."""
        return f"/proc/{self.pid}/fd/{self.fd}"


class Kind:
    """One kind of file descriptor.

    Attributes:
        name: For messages and for the table of what is supported.
        rank: Kinds with a lower rank are asked first.
        record: Class of the records that `dump` makes and `restore` takes.
        own_flags: Whether the restored description takes the record's status flags and SIGIO
            owner; not one that belongs to somebody else.
        finishes_last: Whether `finish` has to see every other kind finished.
    """

    name: ClassVar[str]
    rank: ClassVar[int] = 50
    record: ClassVar[type[Any]]
    own_flags: ClassVar[bool] = True
    finishes_last: ClassVar[bool] = False
    all: ClassVar[list[Kind]] = []

    def __init_subclass__(cls) -> None:
        Kind.all.append(cls())
        Kind.all.sort(key=lambda kind: kind.rank)

    def matches(self, table: FileTable, look: Look) -> bool:
        """Whether *look* is of this kind."""
        raise NotImplementedError

    def inside(self, table: FileTable, look: Look) -> Iterable[Look]:
        """Descriptions that live in this one, perhaps nowhere else: on their way in a socket."""
        return ()

    def dump(self, table: FileTable, look: Look, file_id: int) -> Record | None:
        """Make the record of an open file description; None after refusing it."""
        raise NotImplementedError

    def references(self, record: Any) -> Iterable[int]:
        """The file records that `inside` has found, by id: restored because this one is."""
        return ()

    def restore(self, files: RestoredFiles, record: Any) -> int:
        """Recreate the open file description and return a descriptor of ours for it."""
        raise NotImplementedError

    def fill(self, files: RestoredFiles, record: Any) -> None:
        """Put in what needs other descriptions: all are restored, no process has any yet."""

    def finish(self, files: RestoredFiles, record: Any) -> None:
        """A second step, when every process has its descriptors: epoll's items, locks."""


def load_kinds() -> list[Kind]:
    """Import every module of this package; return the kinds in the order of asking."""
    import runtime.engine.files as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return Kind.all


def file_type(mode: int) -> str:
    """The type of a file in words."""
    for test, word in (
        (stat.S_ISREG, "regular file"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
        (stat.S_ISFIFO, "pipe"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISLNK, "symbolic link"),
    ):
        if test(mode):
            return word
    return "nameless file"


def kind_of(mode: int, fstype: str = "") -> str:
    """What `formats.records.files.RegularFile.kind` says of a file."""
    if fstype in SPECIAL:
        return "special"
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "device"
    return "file" if stat.S_ISREG(mode) else "special"


__all__ = ["Kind", "Look", "Owner", "file_type", "kind_of", "load_kinds"]
