"""The objects of an IPC namespace: System V and POSIX."""

from __future__ import annotations

from dataclasses import dataclass

from formats.records.codec import record
from formats.records.files import Owner


@dataclass(frozen=True, slots=True)
class IpcPermissions:
    """``struct ipc_perm`` of a System V object, sysvipc(7).

    Attributes:
        number: The object's id.
        key: As ftok(3) made it; 0 is IPC_PRIVATE.
        mode: Permission bits.
        uid: Owner.
        gid: Owner's group.
        creator_uid: Creator.
        creator_gid: Creator's group.
    """

    number: int
    key: int
    mode: int
    uid: int
    gid: int
    creator_uid: int
    creator_gid: int


@record("sysv-shm")
@dataclass(frozen=True, slots=True)
class SharedSegment:
    """A System V shared memory segment.

    Attributes:
        ns_id: The IPC namespace.
        permissions: Id, key, owner and mode.
        object_id: The shared-memory record with its size and its pages.
        destroyed: Whether it is to go with its last attachment (``SHM_DEST``).
        locked: Whether its pages are locked (``SHM_LOCKED``).
        creator: Pid inside of the process that made it; 0 when that has ended.
    """

    ns_id: int
    permissions: IpcPermissions
    object_id: int
    destroyed: bool
    locked: bool
    creator: int


@record("sysv-sem")
@dataclass(frozen=True, slots=True)
class SemaphoreSet:
    """A System V semaphore set.

    Attributes:
        ns_id: The IPC namespace.
        permissions: Id, key, owner and mode.
        values: Of each semaphore.
        pids: Pid inside of the process that last changed each semaphore; 0 for nobody, or one
            that has ended.
        operated: Whether semop(2) has ever been called: ``sem_otime`` is not 0.
    """

    ns_id: int
    permissions: IpcPermissions
    values: tuple[int, ...]
    pids: tuple[int, ...]
    operated: bool


@record("sysv-msg")
@dataclass(frozen=True, slots=True)
class SysvQueue:
    """A System V message queue.

    Attributes:
        ns_id: The IPC namespace.
        permissions: Id, key, owner and mode.
        max_bytes: ``msg_qbytes``.
        sender: Pid inside of the last sender; 0 for nobody, or one that has ended.
        receiver: The same of the last receiver.
        received: Whether a message has ever been received.
    """

    ns_id: int
    permissions: IpcPermissions
    max_bytes: int
    sender: int
    receiver: int
    received: bool


@record("sysv-message")
@dataclass(frozen=True, slots=True)
class SysvMessage:
    """A message in a System V queue; the records of one queue stand in its order.

    Attributes:
        ns_id: The IPC namespace.
        number: The queue's id.
        type: More than 0.
        text: Up to ``msgmax`` bytes.
    """

    ns_id: int
    number: int
    type: int
    text: bytes


@record("ipc-settings")
@dataclass(frozen=True, slots=True)
class IpcSettings:
    """The parameters of an IPC namespace, by their path below /proc/sys."""

    ns_id: int
    values: dict[str, str]


@record("posix-queue")
@dataclass(frozen=True, slots=True)
class PosixQueue:
    """A POSIX message queue, mq_overview(7).

    Attributes:
        ns_id: The IPC namespace.
        queue_id: Other records name it so.
        name: Without the leading slash.
        linked: Whether it still has that name, rather than being open only.
        mode: Permission bits.
        uid: Owner.
        gid: Owner's group.
        max_messages: ``mq_maxmsg``.
        message_size: ``mq_msgsize``.
    """

    ns_id: int
    queue_id: int
    name: str
    linked: bool
    mode: int
    uid: int
    gid: int
    max_messages: int
    message_size: int


@record("posix-message")
@dataclass(frozen=True, slots=True)
class PosixMessage:
    """A message in a POSIX queue; the records of one queue stand in the order of receiving.

    Attributes:
        ns_id: The IPC namespace.
        queue_id: The queue.
        priority: Higher ones are received first.
        data: At most the queue's ``message_size`` bytes.
    """

    ns_id: int
    queue_id: int
    priority: int
    data: bytes


@record("file-mqueue")
@dataclass(frozen=True, slots=True)
class QueueFile:
    """A message queue descriptor.

    Attributes:
        file_id: Id.
        queue_id: The queue.
        flags: open(2) flags.
        path: Where it was opened by open(2), in the container; empty for mq_open(3).
        owner: Who gets SIGIO.
    """

    file_id: int
    queue_id: int
    flags: int
    path: str
    owner: Owner | None = None
