"""System V IPC: what the objects of an IPC namespace are, read without changing them.

Everything here looks at the namespace that the calling thread is in (`runtime.kernel.visit`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from runtime.kernel.clone import CLONE_SYSVSEM
from runtime.kernel.libc import check, libc, syscall
from runtime.kernel.numbers import NR

# include/uapi/linux/ipc.h, shm.h, sem.h and msg.h
IPC_PRIVATE = 0
IPC_CREAT = 0o1000
IPC_EXCL = 0o2000
IPC_NOWAIT = 0o4000
IPC_RMID = 0
IPC_SET = 1
IPC_STAT = 2
SHM_RDONLY = 0o10000
SHM_EXEC = 0o100000
SHM_LOCK = 11
SHM_HUGETLB = 0o4000
SHM_HUGE_SHIFT = 26
SHM_DEST = 0o1000
SHM_LOCKED = 0o2000
GETPID = 11
GETALL = 13
SETVAL = 16
SEM_UNDO = 0x1000
SEMVMX = 32767
SEMOPM = 500  # operations of one semop(2) that every kernel allows
MSG_COPY = 0o40000

SEMBUF = struct.Struct("<Hhh")  # struct sembuf: number, operation, flags

# struct ipc64_perm with the fields that IPC_SET reads, include/uapi/asm-generic/ipcbuf.h:
# key, uid, gid, cuid, cgid, mode
_PERM = struct.Struct("<iIIIIIHHxxxxQQ")
_DS_SIZE = 128  # shmid64_ds, semid64_ds and msqid64_ds are 104 to 120 bytes
_QBYTES_AT = _PERM.size + 40  # msg_qbytes behind three times, cbytes and qnum

libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
libc.shmdt.argtypes = (ctypes.c_void_p,)
libc.msgrcv.restype = ctypes.c_ssize_t
libc.msgrcv.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_long,
    ctypes.c_int,
)


def objects(kind: str) -> list[dict[str, int]]:
    """The lines of /proc/sysvipc/*kind* ("shm", "sem", "msg") by column name; perms as a number.

    Source: man 5 proc, man 7 sysvipc. Process ids are those of the caller's pid namespace.
    """
    header, *lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
    names = header.split()
    return [
        {
            name: int(word, 8 if name == "perms" else 10)
            for name, word in zip(names, line.split(), strict=True)
        }
        for line in lines
    ]


def choose_next_id(kind: str, number: int) -> None:
    """Let the next object of *kind* that is made in this namespace have the id *number*.

    Raises:
        FileNotFoundError: A kernel without CONFIG_CHECKPOINT_RESTORE.

    Source: Documentation/admin-guide/sysctl/kernel.rst, ``shm_next_id`` (Linux 3.9).
    """
    fd = os.open(f"/proc/sys/kernel/{kind}_next_id", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d" % number)
    finally:
        os.close(fd)


def packed_settings(uid: int, gid: int, mode: int, max_bytes: int = 0) -> bytes:
    """What IPC_SET takes, for any of the three kinds; *max_bytes* is a message queue's."""
    packed = bytearray(_PERM.pack(0, uid, gid, 0, 0, mode & 0o777, 0, 0, 0, 0).ljust(_DS_SIZE))
    struct.pack_into("<Q", packed, _QBYTES_AT, max_bytes)
    return bytes(packed)


# Shared memory


def open_segment(number: int) -> int:
    """A read-write descriptor for the memory of a segment; shmat(2) and shmdt(2) on the way.

    The memory is a file without a name; /proc/self/map_files opens it while it is attached. The
    segment's attach and detach times change.

    Raises:
        OSError: No such segment (EINVAL, EIDRM), or no permission.
    """
    # ctypes turns the error value (void *) -1 into a number, and NULL into None.
    address = libc.shmat(number, None, 0)
    if address is None or address == 2**64 - 1:
        error = ctypes.get_errno()
        raise OSError(error, f"shmat({number}): {os.strerror(error)}")
    try:
        return os.open(f"/proc/self/map_files/{_mapping_at(address)}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        check(libc.shmdt(address), f"shmdt({address:#x})")


def _mapping_at(address: int) -> str:
    """The name of our own mapping at *address* below map_files: ``start-end``."""
    with open("/proc/self/maps") as file:
        start = f"{address:x}-"
        return next(line.split()[0] for line in file if line.startswith(start))


# Semaphores


def semaphore_values(number: int, count: int) -> tuple[int, ...]:
    """The values of a set, semctl(2) GETALL."""
    values = (ctypes.c_ushort * count)()
    check(libc.semctl(number, 0, GETALL, values), f"semctl({number}, GETALL)")
    return tuple(values)


def semaphore_pids(number: int, count: int) -> tuple[int, ...]:
    """Who last changed each semaphore of a set, in our pid namespace; 0 for nobody."""
    return tuple(
        check(libc.semctl(number, index, GETPID), f"semctl({number}, {index}, GETPID)")
        for index in range(count)
    )


# Messages


def queue_limit(number: int) -> int:
    """The bytes that a message queue may hold, ``msg_qbytes``."""
    buffer = ctypes.create_string_buffer(_DS_SIZE)
    check(libc.msgctl(number, IPC_STAT, buffer), f"msgctl({number}, IPC_STAT)")
    (limit,) = struct.unpack_from("<Q", buffer, _QBYTES_AT)
    return int(limit)


def copied_messages(number: int, largest: int) -> Iterator[tuple[int, bytes]]:
    """(type, text) of the messages of a queue in their order, which stay where they are.

    Args:
        number: The queue.
        largest: Bytes that a message may have at most.

    Raises:
        OSError: ENOSYS from a kernel without CONFIG_CHECKPOINT_RESTORE.

    Source: man 2 msgrcv, MSG_COPY (Linux 3.8).
    """
    buffer = ctypes.create_string_buffer(8 + largest)
    for index in range(2**31):
        try:
            length = check(
                libc.msgrcv(number, buffer, largest, index, MSG_COPY | IPC_NOWAIT),
                f"msgrcv({number}, MSG_COPY)",
            )
        except OSError as exc:
            if exc.errno == errno.ENOMSG:
                return
            raise
        (kind,) = struct.unpack_from("<q", buffer)
        yield kind, buffer.raw[8 : 8 + length]


# Undo


def forget_own_undo() -> None:
    """Make the calling thread one without a list of semaphore adjustments, unshare(2).

    A thread that starts another has one, though an empty one.
    """
    syscall("unshare(CLONE_SYSVSEM)", NR["unshare"], CLONE_SYSVSEM)
