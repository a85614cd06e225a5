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
from runtime.engine.files.mounts import open_inside
from runtime.engine.files.restored import RestoredFiles, open_again
from runtime.engine.files.table import FileTable
from runtime.kernel.splice import tee

SAVED = (
    (
        "pipes, FIFOs",
        "content, capacity, flags, ends in different processes, ends that are closed",
    ),
)
REFUSED = (
    ("pipe-outside", "a pipe whose other end is outside the container"),
    ("pipe-packets", "packets (`O_DIRECT`) that are not yet read"),
)

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
        table.once(("pipe-content", pipe_id), lambda: self._dump_pipe(table, look, pipe_id))
        return PipeEnd(file_id=file_id, pipe_id=pipe_id, flags=look.flags, owner=table.owner(look))

    def _dump_pipe(self, table: FileTable, look: Look, pipe_id: int) -> None:
        path = "" if look.link.startswith("pipe:") else look.link
        if path and not table.mounts.reaches(path, look.stat):
            table.refuse(look, "file-outside", "is a FIFO that has no name inside the container")
            return
        ends = table.same_inode(look)
        fd = os.open(look.proc_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            content = peek_pipe(fd)
            capacity = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        finally:
            os.close(fd)
        if any(end.flags & os.O_DIRECT for end in ends) and content:
            table.refuse(look, "pipe-packets", "holds packets (O_DIRECT) that are not yet read")
            return
        self._check_ends(table, look, ends)
        table.records.append(
            Pipe(
                pipe_id=pipe_id,
                capacity=capacity,
                content=content,
                path=path,
                uid=look.stat.st_uid,
                gid=look.stat.st_gid,
            )
        )

    @staticmethod
    def _check_ends(table: FileTable, look: Look, ends: list[Look]) -> None:
        """Refuse a pipe whose other end is held by somebody outside of the container."""
        modes = {end.flags & ACCESS_MODE for end in ends}
        reads = bool(modes & {os.O_RDONLY, os.O_RDWR})
        writes = bool(modes & {os.O_WRONLY, os.O_RDWR})
        if reads and writes:
            return
        fd = look.duplicate()
        try:
            poller = select.poll()
            poller.register(fd, select.POLLIN if reads else select.POLLOUT)
            events = dict(poller.poll(0)).get(fd, 0)
        finally:
            os.close(fd)
        alone = events & (select.POLLHUP if reads else select.POLLERR)
        if not alone:
            table.refuse(look, "pipe-outside", "is a pipe whose other end is outside the container")

    def restore(self, files: RestoredFiles, record: PipeEnd) -> int:
        through = files.once(("pipe", record.pipe_id), lambda: self._restore_pipe(files, record))
        # Opening by the magic link makes a description of its own, with its own flags.
        return open_again(through, record.flags | os.O_NONBLOCK)

    @staticmethod
    def _restore_pipe(files: RestoredFiles, record: PipeEnd) -> int:
        """A read-write descriptor for the pipe, which is closed when all ends exist."""
        pipe = files.record_of(Pipe, record.pipe_id)
        if pipe.path:
            through = open_inside(files.root, pipe.path, os.O_RDWR | os.O_NONBLOCK)
        else:
            read, write = os.pipe2(os.O_CLOEXEC)
            os.fchown(read, pipe.uid, pipe.gid)
            through = open_again(read, os.O_RDWR | os.O_NONBLOCK)
            os.close(read)
            os.close(write)
        files.close_later(through)
        fcntl.fcntl(through, fcntl.F_SETPIPE_SZ, pipe.capacity)
        content = memoryview(pipe.content)
        while content:
            content = content[os.write(through, content) :]
        return through


def peek_pipe(fd: int) -> bytes:
    """What is in a pipe, without taking it.

    Args:
        fd: A readable end, O_NONBLOCK.
    """
    size = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, size)
    if not size[0]:
        return b""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ))
        # tee(2) copies page references; a pipe of the same capacity takes all of them at once.
        copied = tee(fd, write, size[0])
        content = bytearray()
        while len(content) < copied:
            content += os.read(read, copied - len(content))
        if copied != size[0]:
            raise OSError(5, f"tee copied {copied} of {size[0]} bytes of a pipe")
        return bytes(content)
    finally:
        os.close(read)
        os.close(write)
