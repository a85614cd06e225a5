"""TUN and TAP devices: the ioctls of /dev/net/tun."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from runtime.kernel.visit import visiting_path

# include/uapi/linux/if_tun.h
TUNSETIFF, TUNSETPERSIST, TUNSETOWNER, TUNSETGROUP = 0x400454CA, 0x400454CB, 0x400454CC, 0x400454CE
TUNGETIFF, TUNGETSNDBUF, TUNSETSNDBUF = 0x800454D2, 0x800454D3, 0x400454D4
TUNGETVNETHDRSZ, TUNSETVNETHDRSZ = 0x800454D7, 0x400454D8
TUNSETQUEUE, TUNSETIFINDEX, TUNGETFILTER = 0x400454D9, 0x400454DA, 0x801054DB
TUNGETVNETLE, TUNSETVNETLE, TUNGETDEVNETNS = 0x800454DD, 0x400454DC, 0x54E3

IFF_TUN, IFF_TAP, IFF_NAPI, IFF_NAPI_FRAGS = 0x1, 0x2, 0x10, 0x20
IFF_MULTI_QUEUE, IFF_DETACH_QUEUE, IFF_PERSIST = 0x100, 0x400, 0x800
IFF_ATTACH_QUEUE, IFF_NO_PI, IFF_VNET_HDR = 0x200, 0x1000, 0x4000

TUN_MAJOR_MINOR = (10, 200)  # Documentation/admin-guide/devices.txt
_IFREQ = struct.Struct("16sH22x")


def open_tun(path: str, namespace: str, flags: int = os.O_RDWR) -> int:
    """Open the device at *path* so that its interfaces appear in a network namespace.

    Args:
        path: The device's node; the host's is ``/dev/net/tun``.
        namespace: A path such as ``/proc/PID/ns/net``.
        flags: Of open(2).
    """
    with visiting_path(namespace, "net"):
        return os.open(path, flags | os.O_CLOEXEC)


def attach(fd: int, name: str, flags: int, index: int = 0) -> None:
    """Make the interface *name*, or become another queue of it.

    Args:
        fd: From `open_tun`, not yet attached.
        name: At most 15 bytes.
        flags: ``IFF_TUN`` or ``IFF_TAP``, and others of TUNSETIFF.
        index: Number of a new interface; 0 for any.

    Raises:
        OSError: EBUSY when it exists with another queue, EINVAL when it is of another kind.

    Source: Documentation/networking/tuntap.rst.
    """
    if index:
        fcntl.ioctl(fd, TUNSETIFINDEX, struct.pack("I", index))
    fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(os.fsencode(name), flags))


def interface(fd: int) -> tuple[str, int] | None:
    """Name and ``IFF_*`` flags of the interface that a descriptor belongs to, or None."""
    try:
        answer = fcntl.ioctl(fd, TUNGETIFF, bytes(40))
    except OSError as exc:
        if exc.errno == errno.EBADFD:
            return None
        raise
    name, flags = _IFREQ.unpack(answer)
    return name.rstrip(b"\0").decode(errors="surrogateescape"), flags


def device_namespace(fd: int) -> int:
    """A descriptor for the network namespace in which the interface is now (Linux 5.2)."""
    return fcntl.ioctl(fd, TUNGETDEVNETNS)


def has_filter(fd: int) -> bool:
    """Whether a TAP has a socket filter, TUNATTACHFILTER."""
    try:
        answer = fcntl.ioctl(fd, TUNGETFILTER, bytes(16))  # struct sock_fprog
    except OSError as exc:
        if exc.errno == errno.EINVAL:  # not a TAP
            return False
        raise
    return bool(struct.unpack_from("H", answer)[0])


def get_number(fd: int, request: int) -> int:
    """A value of 32 bits that *request* reads."""
    number: int = struct.unpack("i", fcntl.ioctl(fd, request, bytes(4)))[0]
    return number


def set_number(fd: int, request: int, value: int) -> None:
    """Make a request that takes its number in memory: TUNSETSNDBUF, TUNSETVNETHDRSZ and LE."""
    fcntl.ioctl(fd, request, struct.pack("i", value))


def set_value(fd: int, request: int, value: int) -> None:
    """Make a request that takes its number directly: TUNSETPERSIST, TUNSETOWNER, TUNSETGROUP."""
    fcntl.ioctl(fd, request, value)


def set_attached(fd: int, *, attached: bool) -> None:
    """Enable or disable one queue of a device with several."""
    flags = IFF_ATTACH_QUEUE if attached else IFF_DETACH_QUEUE
    fcntl.ioctl(fd, TUNSETQUEUE, _IFREQ.pack(b"", flags))
