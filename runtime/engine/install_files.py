"""Descriptors into the tasks: our numbers become theirs, over the channel."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence

from formats.records.files import RegularFile
from formats.records.memory import AddressSpace, Backing, Vma
from formats.records.task import Descriptor, Directories, Table
from runtime.engine.files.regular import Regular
from runtime.engine.files.restored import RestoredFiles, open_again
from runtime.engine.new_task import FDS_PER_MESSAGE, NewTask
from runtime.engine.remote import Batch
from runtime.engine.restore_threads import RestoredProcess
from runtime.errors import RestoreError

O_CLOEXEC = 0o2000000
F_SETFD, FD_CLOEXEC = 2, 1
_GIVEN = (Backing.FILE, Backing.SHARED, Backing.SOCKET)


def open_for_mapping(
    task: NewTask,
    channel: socket.socket,
    files: RestoredFiles,
    space: AddressSpace,
    is_done: Callable[[Vma], bool] = lambda _: False,
) -> dict[int, int]:
    """Give a task every file that its mappings and its program need.

    Args:
        task: The leader of a process.
        channel: To its end of the channel.
        files: All files.
        space: What to map.
        is_done: Tells of a mapping that it needs nothing any more.

    Returns:
        The task's descriptor by `key_of` a mapping; the caller closes them there.
    """
    needy = [vma for vma in space.vmas if not is_done(vma)]
    wanted = {key_of(v) for v in needy if v.backing in _GIVEN}
    shared = {v.object_id for v in needy if v.backing is Backing.SHARED}
    ordered = sorted(wanted | {space.exe_file_id})
    sockets = {v.object_id for v in needy if v.backing is Backing.SOCKET}

    def our_number(object_id: int) -> int:
        if object_id < 0:
            return _for_reading(files, -object_id)
        if object_id in shared:
            return files.shared_memory(object_id)
        if object_id in sockets:
            return _ours(files, object_id, "a mapping")
        return mapped_file(files, object_id)

    ours = [our_number(object_id) for object_id in ordered]
    return give(task, channel, ordered, ours)


def key_of(vma: Vma) -> int:
    """What tells apart the descriptors that mappings are made with.

    A seal against writing holds only when no mapping could ever be made writable.
    """
    return -vma.object_id if vma.backing is Backing.SHARED and vma.read_only else vma.object_id


def _for_reading(files: RestoredFiles, object_id: int) -> int:
    def make() -> int:
        fd = open_again(files.shared_memory(object_id), os.O_RDONLY)
        files.close_later(fd)
        return fd

    return files.once(("for-reading", object_id), make)


def give(
    task: NewTask, channel: socket.socket, ordered: Sequence[int], ours: Sequence[int]
) -> dict[int, int]:
    """Give a task descriptors of ours; returns its numbers by the ids in *ordered*."""
    numbers: dict[int, int] = {}
    for first in range(0, len(ordered), FDS_PER_MESSAGE):
        part = slice(first, first + FDS_PER_MESSAGE)
        numbers |= zip(ordered[part], task.receive(channel, ours[part]), strict=True)
    return numbers


def mapped_file(files: RestoredFiles, file_id: int) -> int:
    """Our descriptor for the file behind mappings, made at the first call."""

    def make() -> int:
        fd = Regular().restore(files, files.record_of(RegularFile, file_id))
        files.close_later(fd)
        return fd

    return files.once(("mapped", file_id), make)


def enter_directories(
    task: NewTask, record: Directories, channel: socket.socket, files: RestoredFiles
) -> None:
    """Give a task its root and its working directory, which need not have names, and its umask."""
    wanted = [record.root_file_id, record.cwd_file_id]
    ours = [mapped_file(files, file_id) for file_id in wanted if file_id]
    numbers = task.receive(channel, ours) if ours else []
    batch = Batch()
    batch.call("umask", record.umask)
    if not record.cwd_file_id:
        batch.call("chdir", os.fsencode(record.cwd) + b"\0")
    if record.root_file_id:
        batch.call("fchdir", numbers[0])
        batch.call("chroot", b".\0")
    if record.cwd_file_id:
        batch.call("fchdir", numbers[-1])
    for number in numbers:
        batch.call("close", number)
    task.do(batch)


def tables_of(process: RestoredProcess) -> Iterator[tuple[NewTask, Table]]:
    """The descriptor tables of a process: its own and those of threads that have left it."""
    record = process.record
    yield process.leader, Table(record.files_id, record.descriptors)
    for task, thread in zip(process.tasks, record.threads, strict=True):
        if thread.table is not None:
            yield task, thread.table


def install_descriptors(
    task: NewTask, table: Table, channel: socket.socket, files: RestoredFiles
) -> None:
    """Fill a descriptor table; one that an earlier task has filled is left alone."""
    if table.files_id in files.table_ids:
        return
    wanted = sorted(table.descriptors, key=lambda d: d.fd)
    files.table_ids.add(table.files_id)
    files.tables[task.tid] = {d.fd: d.file_id for d in wanted}
    _make_room(task, wanted)
    # Received descriptors take the lowest numbers. From the top down, none is in another's way.
    starts = range(0, len(wanted), FDS_PER_MESSAGE)
    for first in reversed(starts):
        part = wanted[first : first + FDS_PER_MESSAGE]
        got = task.receive(channel, [_ours(files, d.file_id, f"descriptor {d.fd}") for d in part])
        batch = Batch()
        for number, descriptor in reversed(list(zip(got, part, strict=True))):
            if number != descriptor.fd:
                batch.call("dup3", number, descriptor.fd, O_CLOEXEC * descriptor.cloexec)
                batch.call("close", number)
            elif descriptor.cloexec:
                batch.call("fcntl", number, F_SETFD, FD_CLOEXEC)
        if len(batch):
            task.do(batch)


def _ours(files: RestoredFiles, file_id: int, who: str) -> int:
    try:
        return files.fds[file_id]
    except KeyError:
        raise RestoreError(
            f"{who} names file {file_id}, which the image lacks",
            reason="image-inconsistent",
        ) from None


def _make_room(task: NewTask, wanted: list[Descriptor]) -> None:
    """Move the channel to a number that nobody needs."""
    taken = {descriptor.fd for descriptor in wanted}
    if wanted and wanted[-1].fd >= task.max_files:
        raise RestoreError(
            f"descriptor {wanted[-1].fd} is beyond this host's limit of {task.max_files} open "
            "files",
            reason="rlimit-nofile",
        )
    if task.channel_fd in taken:
        # Above what a message delivers, so that received numbers never meet it.
        free = next(n for n in range(FDS_PER_MESSAGE, task.max_files) if n not in taken)
        batch = Batch()
        batch.call("dup3", task.channel_fd, free, O_CLOEXEC)
        batch.call("close", task.channel_fd)
        task.do(batch)
        task.channel_fd = free
