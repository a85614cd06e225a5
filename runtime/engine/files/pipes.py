"""Pipes and FIFOs with what is in them."""

from __future__ import annotations

import array
import fcntl
import os
import select
import stat
import termios

from formats.records.files import Pipe, PipeEnd
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles, open_again
from runtime.engine.files.table import FileTable, Located
from runtime.errors import RestoreError
from runtime.kernel.splice import tee

SAVED = (
    (
        "pipes, FIFOs",
        "content, packets (`O_DIRECT`), capacity, flags, ends in different processes, ends that "
        "are closed; FIFOs whose name is gone",
    ),
)
REFUSED = (("pipe-outside", "a pipe whose other end is outside the container"),)

ACCESS_MODE = 3


class Pipes(Kind):
    """An end of a pipe or FIFO."""

    name = "pipes and FIFOs with their content"
    rank = 40
    record = PipeEnd

    def matches(self, table: FileTable, look: Look) -> bool:
        return stat.S_ISFIFO(look.stat.st_mode) and not look.flags & os.O_PATH

    def dump(self, table: FileTable, look: Look, file_id: int) -> PipeEnd | None:
        pipe_id = table.once(("pipe", look.stat.st_dev, look.stat.st_ino), table.context.new_id)
        pipe = table.once(("pipe-content", pipe_id), lambda: self._dump_pipe(table, look, pipe_id))
        return PipeEnd(
            file_id=file_id,
            pipe_id=pipe_id,
            flags=look.flags,
            owner=table.owner(look),
            lonely=pipe is not None and bool(pipe.path) and _is_lonely(table, look),
        )

    def _dump_pipe(self, table: FileTable, look: Look, pipe_id: int) -> Pipe | None:
        found: Located | None = Located("")
        if not look.link.startswith("pipe:"):
            what = f"fd {look.fd} ({look.link})"
            found = table.locate(what, look.pid, look.link, look.proc_path, look.stat)
        if found is None:
            return None
        if not _is_complete(table, look):
            table.refuse(look, "pipe-outside", "is a pipe whose other end is outside the container")
            return None
        fd = _reader(table, look)
        try:
            parts = peek_pipe(fd)
            capacity = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        finally:
            os.close(fd)
        direct = any(end.flags & os.O_DIRECT for end in table.same_inode(look))
        pipe = Pipe(
            pipe_id=pipe_id,
            capacity=capacity,
            content=b"".join(parts),
            packets=tuple(map(len, parts)) if direct or len(parts) > 1 else (),
            path=found.path,
            uid=look.stat.st_uid,
            gid=look.stat.st_gid,
            deleted_object_id=found.deleted_object_id,
            mount_id=found.mount_id,
            inner=found.inner,
            hidden=found.hidden,
        )
        table.records.append(pipe)
        return pipe

    # Restore

    def restore(self, files: RestoredFiles, record: PipeEnd) -> int:
        pipe = files.record_of(Pipe, record.pipe_id)
        if pipe.path:
            ends = [end for end in files.all_of(PipeEnd) if end.pipe_id == record.pipe_id]
            if any(end.lonely for end in ends):
                readers = files.once(("fifo", pipe.pipe_id), lambda: _readers(files, pipe, ends))
                return readers[record.file_id]
        restored = files.once(("pipe", record.pipe_id), lambda: _Restored(files, pipe))
        return restored.end(record.flags & ~os.O_DIRECT)

    def fill(self, files: RestoredFiles, record: PipeEnd) -> None:
        restored: _Restored | None = files.made(("pipe", record.pipe_id))
        if restored is not None:
            restored.close()


def _modes(table: FileTable, look: Look) -> set[int]:
    return {end.flags & ACCESS_MODE for end in table.same_inode(look)}


def _is_complete(table: FileTable, look: Look) -> bool:
    """Whether nobody outside of the container has an end of the pipe that nobody inside has."""
    modes = _modes(table, look)
    if os.O_RDWR in modes or len(modes) > 1:
        return True
    if os.O_WRONLY in modes:
        return bool(_events(look) & select.POLLERR)
    if _events(look) & select.POLLHUP:
        return True
    # A FIFO's reader sees a hang-up only after it has seen a writer; a read tells if there is one.
    fd = os.open(look.proc_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return not _waiting(fd) and not os.read(fd, 1)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def _reader(table: FileTable, look: Look) -> int:
    """A descriptor of ours that can read the pipe."""
    for end in table.same_inode(look):
        if end.flags & ACCESS_MODE != os.O_WRONLY:
            return end.duplicate()
    return os.open(look.proc_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _events(look: Look) -> int:
    fd = look.duplicate()
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN | select.POLLOUT)
        return dict(poller.poll(0)).get(fd, 0)
    finally:
        os.close(fd)


def _is_lonely(table: FileTable, look: Look) -> bool:
    """Whether a reader has never seen a writer."""
    if look.flags & ACCESS_MODE != os.O_RDONLY:
        return False
    return _modes(table, look) == {os.O_RDONLY} and not _events(look) & select.POLLHUP


class _Restored:
    """A pipe from which ends are made."""

    def __init__(self, files: RestoredFiles, pipe: Pipe) -> None:
        self._free: dict[int, int] = {}
        if pipe.path:
            self._through = _open_fifo(files, pipe, os.O_RDWR | os.O_NONBLOCK)
        else:
            self._through, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.fchown(write, pipe.uid, pipe.gid)
            # The first reader and the first writer need not be opened anew.
            self._free = {os.O_RDONLY: self._through, os.O_WRONLY: write}
        self._named = bool(pipe.path)
        if fcntl.fcntl(self._through, fcntl.F_GETPIPE_SZ) != pipe.capacity:
            fcntl.fcntl(self._through, fcntl.F_SETPIPE_SZ, pipe.capacity)
        if pipe.content:
            self._fill(pipe)

    def end(self, flags: int) -> int:
        """A description of an end; its changeable flags are the caller's to set."""
        free = self._free.pop(flags & ACCESS_MODE, None)
        # Opening by the magic link makes a description of its own, with its own flags.
        return open_again(self._through, flags | os.O_NONBLOCK) if free is None else free

    def close(self) -> None:
        """Close what no process is going to have."""
        for fd in self._free.values():
            os.close(fd)
        self._free.clear()
        if self._named:
            os.close(self._through)
            self._named = False

    def _fill(self, pipe: Pipe) -> None:
        if sum(pipe.packets) not in (0, len(pipe.content)) or not all(pipe.packets):
            raise RestoreError(
                f"pipe {pipe.pipe_id} holds {len(pipe.content)} bytes in packets of "
                f"{sum(pipe.packets)}",
                reason="image-inconsistent",
            )
        fd = open_again(self._through, os.O_WRONLY | os.O_NONBLOCK)
        try:
            if pipe.packets:
                fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT | os.O_NONBLOCK)
            content = memoryview(pipe.content)
            for size in pipe.packets or (len(content),):
                _write_all(fd, content[:size])
                content = content[size:]
        finally:
            os.close(fd)


def _readers(files: RestoredFiles, pipe: Pipe, ends: list[PipeEnd]) -> dict[int, int]:
    """The readers of a FIFO without writers, some of them lonely, by file.

    A writer comes and goes after those that have seen one, and before those that have not.
    """
    if pipe.content or any(end.flags & ACCESS_MODE != os.O_RDONLY for end in ends):
        raise RestoreError(
            f"pipe {pipe.pipe_id} has a reader without a writer, content and other ends",
            reason="image-inconsistent",
        )
    fds: dict[int, int] = {}
    for lonely in (False, True):
        for end in ends:
            if end.lonely == lonely:
                fds[end.file_id] = _open_fifo(files, pipe, end.flags | os.O_NONBLOCK)
        if fds and not lonely:
            os.close(_open_fifo(files, pipe, os.O_WRONLY | os.O_NONBLOCK))
    fcntl.fcntl(fds[ends[0].file_id], fcntl.F_SETPIPE_SZ, pipe.capacity)
    return fds


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _open_fifo(files: RestoredFiles, pipe: Pipe, flags: int) -> int:
    """Open a FIFO; an image must not make us open anything else."""
    if pipe.deleted_object_id:
        place = files.open_deleted(pipe.deleted_object_id, os.O_PATH)
    else:
        place = files.open(pipe, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISFIFO(os.fstat(place).st_mode):
            raise RestoreError(f"{pipe.path} is not a FIFO any more", reason="file-changed")
        return open_again(place, flags)
    finally:
        os.close(place)


def _waiting(fd: int) -> int:
    size = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, size)
    return size[0]


def peek_pipe(fd: int) -> list[bytes]:
    """What is in a pipe, without taking it: its packets, or everything as one.

    Args:
        fd: A readable end.
    """
    size = _waiting(fd)
    if not size:
        return []
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ))
        # tee(2) copies page references; a pipe of the same capacity takes all of them at once.
        copied = tee(fd, write, size)
        parts: list[bytes] = []
        left = copied
        while left:
            # A read ends where a packet ends, and nowhere else.
            parts.append(os.read(read, left))
            left -= len(parts[-1])
        if copied != size:
            raise OSError(5, f"tee copied {copied} of {size} bytes of a pipe")
        return parts
    finally:
        os.close(read)
        os.close(write)
