"""Link-layer groups that an interface listens to on its administrator's order."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Final

from runtime.kernel.visit import visiting_path

SIOCADDMULTI = 0x8931  # include/uapi/linux/sockios.h
_IFREQ: Final = struct.Struct("=16sH14s8x")  # struct ifreq with ifr_hwaddr
AF_UNSPEC = 0


def link_groups(path: str) -> list[tuple[str, bytes]]:
    """(interface, address) of each group that was added by SIOCADDMULTI in a network namespace.

    Source: net/core/dev_addr_lists.c, dev_mc_seq_show: number, name, users, global, address.
    """
    with visiting_path(path, "net"), open("/proc/thread-self/net/dev_mcast") as file:
        lines = [line.split() for line in file]
    return [(name, bytes.fromhex(text)) for _, name, _, is_global, text in lines if int(is_global)]


def join_link_group(path: str, name: str, address: bytes) -> None:
    """Let an interface listen to a group.

    Raises:
        OSError: EINVAL for an address that is no group's, ENODEV.
    """
    with visiting_path(path, "net"), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCADDMULTI, _IFREQ.pack(os.fsencode(name), AF_UNSPEC, address))
