"""/proc/PID/net/raw and its like: sockets that sock_diag may not know of."""

from __future__ import annotations

import struct
from pathlib import Path

_TABLES = ("raw", "raw6", "icmp", "icmp6")


def raw_sockets(pid: int) -> dict[int, tuple[int, bytes, int]]:
    """State, remote address and remote port of raw and ping sockets by inode.

    Args:
        pid: A task in the network namespace.

    Source: man 5 proc_pid_net.
    """
    found = {}
    for name in _TABLES:
        path = Path(f"/proc/{pid}/net/{name}")
        if not path.exists():  # a kernel without IPv6
            continue
        for line in path.read_text().splitlines()[1:]:
            fields = line.split()
            host, _, port = fields[2].partition(":")
            found[int(fields[9])] = (int(fields[3], 16), _host(host), int(port, 16))
    return found


def multicast_groups(pid: int) -> list[tuple[int, bytes]]:
    """Interface index and address of every multicast group that is joined in a namespace.

    Source: man 5 proc_pid_net (igmp), net/ipv6/mcast.c for igmp6.
    """
    found: list[tuple[int, bytes]] = []
    index = 0
    for line in Path(f"/proc/{pid}/net/igmp").read_text().splitlines()[1:]:
        if not line.startswith("\t"):
            index = int(line.split()[0])
        else:
            found.append((index, _host(line.split()[0])))
    path = Path(f"/proc/{pid}/net/igmp6")
    if path.exists():
        for line in path.read_text().splitlines():
            fields = line.split()
            found.append((int(fields[0]), bytes.fromhex(fields[2])))
    return found


def _host(text: str) -> bytes:
    """An address of 32-bit words, each as the processor prints it."""
    return b"".join(
        struct.pack("=I", int(text[start : start + 8], 16)) for start in range(0, len(text), 8)
    )
