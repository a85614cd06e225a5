"""POSIX message queues: the mqueue file system of an IPC namespace, and queues without a name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from formats.records.ipc import PosixMessage, PosixQueue
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.ipc_objects import owner_inside
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.errors import RestoreError
from runtime.kernel import mqueue
from runtime.kernel.visit import visiting_path

SAVED = (
    (
        "POSIX message queues",
        "named and removed ones, messages with their priorities, owner, mode, attributes; "
        "descriptors",
    ),
)
REFUSED = (("mqueue-notify", "a process waits for a notification, mq_notify(3); try again"),)
_SETTINGS = Path("/proc/sys/fs/mqueue")


class PosixQueues(SandboxKind):
    """Queues that have a name, and on the way back also those that have none."""

    name = "POSIX message queues"
    namespace = "ipc"
    records = (PosixQueue, PosixMessage)

    def dump(
        self, context: DumpContext, files: FileTable, scope: Scope
    ) -> Iterable[PosixQueue | PosixMessage]:
        if not _SETTINGS.exists():
            return
        with visiting_path(scope.path, "ipc"), mqueue.queues() as directory:
            files.queue_scopes[os.fstat(directory).st_dev] = scope
            for name in os.listdir(f"/proc/self/fd/{directory}"):
                path = f"/proc/self/fd/{directory}/{name}"
                yield from dump_queue(context, files, scope, path, name, linked=True)

    def restore(
        self, files: RestoredFiles, place: Place, records: Sequence[PosixQueue | PosixMessage]
    ) -> None:
        messages: dict[int, list[PosixMessage]] = {}
        for record in records:
            if isinstance(record, PosixMessage):
                messages.setdefault(record.queue_id, []).append(record)
        queues = [record for record in records if isinstance(record, PosixQueue)]
        if messages.keys() - {queue.queue_id for queue in queues}:
            raise RestoreError(
                "the image has messages of a queue that it lacks", reason="image-inconsistent"
            )
        for queue in queues:
            _check(queue)
        with visiting_path(place.path, "ipc"):
            _make_room(queues)
            # Those without a name first: they give the name that they had free again.
            for queue in sorted(queues, key=lambda queue: queue.linked):
                fd = files.posix_queues[queue.queue_id] = _restore_queue(queue)
                for message in messages.get(queue.queue_id, ()):
                    mqueue.send(fd, message.priority, message.data)


def dump_queue(
    context: DumpContext, files: FileTable, scope: Scope, path: str, name: str, *, linked: bool
) -> Iterator[PosixQueue | PosixMessage]:
    """The records of a queue, once.

    Args:
        path: A path of ours that opens it.
        name: Its name, without the slash.
        linked: Whether it still has it.
    """
    looking = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(looking)
        key = (status.st_dev, status.st_ino)
        if key in files.posix_queues:
            return
        queue_id = files.posix_queues[key] = context.new_id()
        if mqueue.is_watched(looking):
            sentence = "has a process registered for a notification; try again when it has come"
            context.refuse("mqueue-notify", f"message queue /{name}", sentence)
            return
    finally:
        os.close(looking)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found, messages = mqueue.attributes(fd), mqueue.peek(fd)
    finally:
        os.close(fd)
    uid, gid = owner_inside(scope, status.st_uid, status.st_gid)
    yield PosixQueue(
        ns_id=scope.ns_id,
        queue_id=queue_id,
        name=name,
        linked=linked,
        mode=status.st_mode & 0o7777,
        uid=uid,
        gid=gid,
        max_messages=found.max_messages,
        message_size=found.message_size,
    )
    for priority, data in messages:
        yield PosixMessage(scope.ns_id, queue_id, priority, data)


def _check(queue: PosixQueue) -> None:
    named = queue.name and "/" not in queue.name and "\0" not in queue.name
    sizes = all(0 < size < 2**31 for size in (queue.max_messages, queue.message_size))
    owned = all(0 <= owner < 2**32 for owner in (queue.uid, queue.gid))
    if not named or not sizes or not owned or queue.mode & ~0o7777:
        raise RestoreError(
            f"the image describes a message queue as there can be none: {queue}",
            reason="image-inconsistent",
        )


def _make_room(queues: Sequence[PosixQueue]) -> None:
    """Raise what would keep us from making the queues; `ipc_settings` puts it right in the end."""
    if not queues:
        return
    for name, least in (
        ("queues_max", len(queues)),
        ("msg_max", max(queue.max_messages for queue in queues)),
        ("msgsize_max", max(queue.message_size for queue in queues)),
    ):
        setting = _SETTINGS / name
        if int(setting.read_text()) < least:
            setting.write_text(str(least))


def _restore_queue(queue: PosixQueue) -> int:
    try:
        fd = mqueue.create(queue.name, queue.max_messages, queue.message_size)
    except OSError as exc:
        raise RestoreError(
            f"cannot make message queue /{queue.name} for {queue.max_messages} messages of "
            f"{queue.message_size} bytes: {exc.strerror}",
            reason="mqueue-limit",
        ) from exc
    os.fchown(fd, queue.uid, queue.gid)
    os.fchmod(fd, queue.mode)
    if not queue.linked:
        mqueue.unlink(queue.name)
    return fd
