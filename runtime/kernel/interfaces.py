"""Network interfaces of a namespace: netdevice(7)."""

from __future__ import annotations

import fcntl
import socket
import struct

from runtime.kernel.visit import visiting, visiting_path

SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914  # include/uapi/linux/sockios.h
IFF_UP, IFF_LOOPBACK = 0x1, 0x8  # include/uapi/linux/if.h
_REQUEST = struct.Struct("16sH14x")


def interface_names(path: str) -> dict[int, str]:
    """Names of the interfaces of a task's network namespace, by index."""
    with visiting_path(path, "net"):
        return dict(socket.if_nameindex())


def set_links_down(pid: int) -> None:
    """Take every interface of a task's network namespace down, except loopback."""
    with visiting(pid, "net"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for _, name in socket.if_nameindex():
            answer = fcntl.ioctl(control, SIOCGIFFLAGS, _REQUEST.pack(name.encode(), 0))
            _, flags = _REQUEST.unpack(answer)
            if flags & IFF_UP and not flags & IFF_LOOPBACK:
                request = _REQUEST.pack(name.encode(), flags & ~IFF_UP)
                fcntl.ioctl(control, SIOCSIFFLAGS, request)
