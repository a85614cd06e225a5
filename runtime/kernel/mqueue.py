"""POSIX message queues as the kernel has them: a file system for each IPC namespace.

Source: man 7 mq_overview, ipc/mqueue.c.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from runtime.kernel import mount
from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR

_ATTR = struct.Struct("<qqqq32x")  # struct mq_attr: flags, maxmsg, msgsize, curmsgs
_HEAD = struct.Struct("<II")  # of a message in our own pipe: priority, length
_NOTIFY_PID = re.compile(rb"NOTIFY_PID:(\d+)")


@dataclass(frozen=True, slots=True)
class QueueAttributes:
    """How many messages of which size a queue holds at most, and how many it has."""

    max_messages: int
    message_size: int
    messages: int


@contextlib.contextmanager
def queues() -> Iterator[int]:
    """A directory of the queues of the calling thread's IPC namespace, mounted nowhere.

    Raises:
        OSError: ENODEV from a kernel without CONFIG_POSIX_MQUEUE.
    """
    context = mount.fsopen("mqueue")
    try:
        mount.fsconfig_create(context)
        directory = mount.fsmount(context)
    finally:
        os.close(context)
    try:
        yield directory
    finally:
        os.close(directory)


def attributes(fd: int) -> QueueAttributes:
    """mq_getattr(3)."""
    found = ctypes.create_string_buffer(_ATTR.size)
    number = NR["mq_getsetattr"]
    syscall(f"mq_getsetattr({fd})", number, fd, 0, ctypes.addressof(found))
    _, most, size, held = _ATTR.unpack(found.raw)
    return QueueAttributes(most, size, held)


def is_watched(fd: int) -> bool:
    """Whether a process of our pid namespace or below has registered with mq_notify(3).

    Args:
        fd: Opened for this alone: reading it, as a file, gives the queue's state.
    """
    match = _NOTIFY_PID.search(os.read(fd, 256))
    return match is not None and int(match[1]) != 0


def create(name: str, max_messages: int, message_size: int) -> int:
    """mq_open(3) of a new queue, for reading and writing without waiting.

    Raises:
        FileExistsError: The name is taken.
        OSError: EINVAL or EMFILE, beyond a limit; see mq_overview(7).
    """
    attr = ctypes.create_string_buffer(_ATTR.pack(0, max_messages, message_size, 0))
    path = ctypes.create_string_buffer(os.fsencode(name))
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC
    where = (ctypes.addressof(path), flags, 0o600, ctypes.addressof(attr))
    return syscall(f"mq_open({name!r})", NR["mq_open"], *where)


def unlink(name: str) -> None:
    """mq_unlink(3)."""
    path = ctypes.create_string_buffer(os.fsencode(name))
    syscall(f"mq_unlink({name!r})", NR["mq_unlink"], ctypes.addressof(path))


def send(fd: int, priority: int, data: bytes) -> None:
    """mq_send(3)."""
    buffer = ctypes.create_string_buffer(data, max(len(data), 1))
    call = (fd, ctypes.addressof(buffer), len(data), priority, 0)
    syscall(f"mq_send({fd})", NR["mq_timedsend"], *call)


def _receive(fd: int, size: int) -> tuple[int, bytes]:
    buffer, priority = ctypes.create_string_buffer(size), ctypes.c_uint()
    call = (fd, ctypes.addressof(buffer), size, ctypes.addressof(priority), 0)
    length = syscall(f"mq_receive({fd})", NR["mq_timedreceive"], *call)
    return priority.value, buffer.raw[:length]


def peek(fd: int) -> list[tuple[int, bytes]]:
    """(priority, data) of all messages of a queue that nobody else uses, in their order.

    No call looks at a message without taking it. So they are taken and put back, by a child of
    ours that nothing but SIGKILL keeps from doing both, also when we are killed meanwhile.

    Args:
        fd: Open for reading and writing, O_NONBLOCK; nobody is registered for a notification.

    Raises:
        OSError: The child could not.
    """
    found = attributes(fd)
    if not found.messages:
        return []
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _take_and_put_back(fd, found, writer)
    os.close(writer)
    try:
        answer = b""
        while piece := os.read(reader, 1 << 16):
            answer += piece
    finally:
        os.close(reader)
        _, status = os.waitpid(pid, 0)
    if status:
        raise OSError(os.waitstatus_to_exitcode(status), "a queue's messages could not be read")
    return list(_unpacked(answer))


def _take_and_put_back(fd: int, found: QueueAttributes, writer: int) -> NoReturn:
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.setsid()  # a terminal's signals are not for us
        messages = [_receive(fd, found.message_size) for _ in range(found.messages)]
        for priority, data in messages:
            send(fd, priority, data)
        for priority, data in messages:
            packed = _HEAD.pack(priority, len(data)) + data
            while packed:
                packed = packed[os.write(writer, packed) :]
        status = 0
    except OSError as exc:
        status = exc.errno or 1
    finally:
        os._exit(status)


def _unpacked(answer: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(answer):
        priority, length = _HEAD.unpack_from(answer, at)
        at += _HEAD.size
        yield priority, answer[at : at + length]
        at += length
