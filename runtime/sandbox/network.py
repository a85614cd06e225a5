"""The loopback interface of a new network namespace."""

from __future__ import annotations

import fcntl
import socket
import struct

from runtime.sandbox.steps import step

# include/uapi/linux/sockios.h, include/uapi/linux/if.h
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def bring_loopback_up() -> None:
    """Set the interface ``lo`` of our network namespace up; the kernel gives it its addresses."""
    with step("bring the loopback interface up"), socket.socket() as sock:
        request = struct.pack("16sh22x", b"lo", 0)  # struct ifreq
        (flags,) = struct.unpack_from("h", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))
