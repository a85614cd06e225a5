"""userfaultfd(2) in missing mode: pages are handed in when, or before, they are first touched.

The descriptor belongs to the address space of the task that has made it; whoever else holds it
serves *that* address space. A task that touches a page that is missing waits until the page was
handed in. Changes of the address space are told as events, and the task that makes the change waits
until its event was read. While one is under way, handing in fails with EAGAIN: so what was
read before is still true when a page arrives.

Its last close unregisters everything, and who waited goes on: with zeros.

Source: man 2 userfaultfd, man 2 ioctl_userfaultfd, include/uapi/linux/userfaultfd.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from runtime.kernel.pagemap import PAGE_SIZE

# include/uapi/linux/userfaultfd.h
UFFD_API = 0xAA
UFFD_FEATURE_EVENT_FORK = 1 << 1
UFFD_FEATURE_EVENT_REMAP = 1 << 2
UFFD_FEATURE_EVENT_REMOVE = 1 << 3
UFFD_FEATURE_EVENT_UNMAP = 1 << 6
UFFDIO_API = 0xC018AA3F  # _IOWR(0xAA, 0x3F, struct uffdio_api)
UFFDIO_REGISTER = 0xC020AA00  # _IOWR(0xAA, 0, struct uffdio_register)
UFFDIO_WAKE = 0x8010AA02  # _IOR(0xAA, 2, struct uffdio_range)
UFFDIO_COPY = 0xC028AA03  # _IOWR(0xAA, 3, struct uffdio_copy)
UFFDIO_ZEROPAGE = 0xC020AA04  # _IOWR(0xAA, 4, struct uffdio_zeropage)
UFFDIO_REGISTER_MODE_MISSING = 1 << 0
USERFAULTFD_IOC_NEW = 0xAA00  # _IO(0xAA, 0), of /dev/userfaultfd
DEVICE = "/dev/userfaultfd"  # whoever may open it may serve faults of the kernel's, Linux 6.1
FLAGS = os.O_CLOEXEC | os.O_NONBLOCK

PAGEFAULT, FORK, REMAP, REMOVE, UNMAP = 0x12, 0x13, 0x14, 0x15, 0x16  # UFFD_EVENT_*

_FEATURES = (
    UFFD_FEATURE_EVENT_FORK
    | UFFD_FEATURE_EVENT_REMAP
    | UFFD_FEATURE_EVENT_REMOVE
    | UFFD_FEATURE_EVENT_UNMAP
)
_MESSAGE = struct.Struct("=BxHI3Q")  # struct uffd_msg, packed
_MESSAGES = 128  # read at once
_COPY = struct.Struct("4Qq")
_ZEROPAGE = struct.Struct("3Qq")


class Event(NamedTuple):
    """What happened in an address space.

    Attributes:
        kind: PAGEFAULT: somebody waits for the page at *address*. FORK: *address* is a descriptor
            of ours for the child's memory, which is registered as its parent's is. REMAP: *length*
            bytes at *address* are now at *to*. REMOVE, UNMAP: [*address*, *to*) has lost its
            content, or is gone.
        address, to, length: As said; bytes.
    """

    kind: int
    address: int
    to: int = 0
    length: int = 0


def enable(fd: int) -> None:
    """Ask for all events, once, before anything is registered.

    Raises:
        OSError: EINVAL when this kernel lacks one of them; EPERM without CAP_SYS_PTRACE.
    """
    fcntl.ioctl(fd, UFFDIO_API, bytearray(struct.pack("QQQ", UFFD_API, _FEATURES, 0)))


def register(fd: int, start: int, end: int) -> None:
    """Register what is mapped in ``[start, end)``: private anonymous memory.

    Raises:
        OSError: EINVAL for memory of another kind, EBUSY when it has a userfaultfd already.
    """
    arg = struct.pack("QQQQ", start, end - start, UFFDIO_REGISTER_MODE_MISSING, 0)
    fcntl.ioctl(fd, UFFDIO_REGISTER, bytearray(arg))


def read_events(fd: int) -> Iterator[Event]:
    """What there is to be read, without waiting; not more than fits one read."""
    try:
        raw = os.read(fd, _MESSAGE.size * _MESSAGES)
    except BlockingIOError:
        return
    for kind, _, _, first, second, third in _MESSAGE.iter_unpack(raw):
        if kind == PAGEFAULT:
            yield Event(kind, second)  # flags come first
        elif kind == FORK:
            yield Event(kind, first & 0xFFFFFFFF)
        elif kind == REMAP:
            yield Event(kind, first, second, third)
        else:
            yield Event(kind, first, second)


class Filled(NamedTuple):
    """How far handing in went.

    Attributes:
        done: Bytes.
        error: Why no further, 0 when all is done: EAGAIN while the address space changes, EEXIST
            when a page is there already, ENOENT when nothing is registered there, ESRCH when the
            address space is gone, ENOMEM.
    """

    done: int
    error: int


def copy(fd: int, start: int, data: bytearray | memoryview) -> Filled:
    """Hand in pages, and wake whoever waits for them.

    Args:
        fd: The userfaultfd.
        start: Byte address, page-aligned.
        data: Whole pages; writable, though it is only read.
    """
    size = len(data)
    source = ctypes.addressof(ctypes.c_char.from_buffer(data))
    arg = bytearray(_COPY.pack(start, source, size, 0, 0))
    return _fill(fd, UFFDIO_COPY, arg, size)


def zero(fd: int, start: int, size: int) -> Filled:
    """As `copy`, with zeros."""
    return _fill(fd, UFFDIO_ZEROPAGE, bytearray(_ZEROPAGE.pack(start, size, 0, 0)), size)


def _fill(fd: int, request: int, arg: bytearray, size: int) -> Filled:
    try:
        fcntl.ioctl(fd, request, arg)
    except OSError as exc:
        # A part of it may be done; then the last word is how much, else the error again.
        (done,) = struct.unpack_from("q", arg, len(arg) - 8)
        return Filled(max(0, done), exc.errno or errno.EIO)
    return Filled(size, 0)


def wake(fd: int, start: int) -> None:
    """Let whoever waits for the page at *start* look again."""
    fcntl.ioctl(fd, UFFDIO_WAKE, struct.pack("QQ", start & -PAGE_SIZE, PAGE_SIZE))
