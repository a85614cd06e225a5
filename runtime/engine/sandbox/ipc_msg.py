"""System V message queues and the messages in them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from formats.records.ipc import SysvMessage, SysvQueue
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.mappings import MAP_ANONYMOUS, MAP_PRIVATE
from runtime.engine.remote import Batch, Tracee
from runtime.engine.sandbox.ipc_objects import actor, create, inside_pid, permissions, set_owner
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.errors import RestoreError
from runtime.kernel import process_vm, sysvipc
from runtime.kernel.visit import visiting_path

SAVED = (
    (
        "System V message queues",
        "queues under their ids and keys, messages, owner, mode, size, last sender and receiver",
    ),
)
PROT_READ, PROT_WRITE = 1, 2
_NO_FD = 2**64 - 1
_SMALL = 64 << 10  # bytes of a message that travels with a batch
_HEADER = struct.Struct("<q")  # struct msgbuf: the type before the text
_LARGEST = Path("/proc/sys/kernel/msgmax")
_ROOM = Path("/proc/sys/kernel/msgmnb")


class SysvQueues(SandboxKind):
    """Message queues."""

    name = "System V message queues"
    namespace = "ipc"
    records = (SysvQueue, SysvMessage)

    def dump(
        self, context: DumpContext, files: FileTable, scope: Scope
    ) -> Iterable[SysvQueue | SysvMessage]:
        with visiting_path(scope.path, "ipc"):
            for row in sysvipc.objects("msg"):
                number = row["msqid"]
                yield SysvQueue(
                    ns_id=scope.ns_id,
                    permissions=permissions(scope, row, "msqid"),
                    max_bytes=sysvipc.queue_limit(number),
                    sender=inside_pid(context, row["lspid"]),
                    receiver=inside_pid(context, row["lrpid"]),
                    received=row["rtime"] != 0,
                )
                # No message is larger than all of them.
                for kind, text in sysvipc.copied_messages(number, row["cbytes"]):
                    yield SysvMessage(scope.ns_id, number, kind, text)

    def finish(
        self, files: RestoredFiles, place: Place, records: Sequence[SysvQueue | SysvMessage]
    ) -> None:
        texts: dict[int, list[SysvMessage]] = {}
        for record in records:
            if isinstance(record, SysvMessage):
                texts.setdefault(record.number, []).append(record)
        queues = [record for record in records if isinstance(record, SysvQueue)]
        for queue in queues:
            types = (message.type for message in texts.get(queue.permissions.number, ()))
            if not 0 <= queue.max_bytes < 2**63 or not all(0 < kind < 2**63 for kind in types):
                raise RestoreError(
                    f"the image has messages in queue {queue.permissions.number} as none can have",
                    reason="image-inconsistent",
                )
        if texts.keys() - {queue.permissions.number for queue in queues}:
            raise RestoreError(
                "the image has messages of a queue that it lacks", reason="image-inconsistent"
            )
        for queue in queues:
            self._restore_queue(files, place, queue, texts.get(queue.permissions.number, []))

    def _restore_queue(
        self, files: RestoredFiles, place: Place, queue: SysvQueue, messages: list[SysvMessage]
    ) -> None:
        number = queue.permissions.number
        needed = max(queue.max_bytes, sum(len(message.text) for message in messages), 1)
        largest = max((len(message.text) for message in messages), default=1)
        with visiting_path(place.path, "ipc"):
            # A queue gets its room from the parameter; to raise it later takes a privilege that
            # we may lack. `ipc_settings` sets the parameters to what they were.
            for path, least in ((_ROOM, needed), (_LARGEST, largest)):
                if int(path.read_text()) < least:
                    path.write_text(str(least))
        create(files, place, "msg", queue.permissions, 0)
        sender = actor(files, place, queue.sender)
        if queue.received:
            _send(sender, [SysvMessage(queue.ns_id, number, 1, b"")])
            taken = Batch()
            taken.call("msgrcv", number, taken.out(_HEADER.size), 0, 0, sysvipc.IPC_NOWAIT)
            actor(files, place, queue.receiver).run(taken)
        _send(sender, messages)
        batch = Batch()
        set_owner(batch, "msg", queue.permissions, queue.max_bytes, always=True)
        place.task.run(batch)


def _send(task: Tracee, messages: list[SysvMessage]) -> None:
    batch = Batch()
    for message in messages:
        packed = _HEADER.pack(message.type) + message.text
        if len(batch) and (batch.full or len(packed) > _SMALL):
            task.run(batch)
            batch = Batch()
        if len(packed) > _SMALL:
            _send_large(task, message, packed)
        else:
            at = batch.data(packed)
            batch.call("msgsnd", message.number, at, len(message.text), sysvipc.IPC_NOWAIT)
    if len(batch):
        task.run(batch)


def _send_large(task: Tracee, message: SysvMessage, packed: bytes) -> None:
    """Send a message that the scratch area does not hold, from memory mapped for it."""
    batch = Batch()
    flags = MAP_PRIVATE | MAP_ANONYMOUS
    mapped = batch.call("mmap", 0, len(packed), PROT_READ | PROT_WRITE, flags, _NO_FD, 0)
    address = task.run(batch)[mapped]
    process_vm.write(task.tid, address, packed)
    batch = Batch()
    batch.call("msgsnd", message.number, address, len(message.text), sysvipc.IPC_NOWAIT)
    batch.call("munmap", address, len(packed))
    task.run(batch)
