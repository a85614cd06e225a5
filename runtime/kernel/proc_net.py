"""/proc/net/raw and its like: sockets that sock_diag may not know of."""

from __future__ import annotations

import struct
from pathlib import Path

from runtime.kernel.visit import visiting_path

_HERE = Path("/proc/thread-self/net")
_TABLES = ("raw", "raw6", "icmp", "icmp6")


def raw_sockets(path: str) -> dict[int, tuple[int, bytes, int]]:
    """State, remote address and remote port of raw and ping sockets by inode.

    Args:
        path: The network namespace, as a path such as ``/proc/PID/ns/net``.

    Source: man 5 proc_pid_net.
    """
    found = {}
    for name in _TABLES:
        for line in _lines(path, name)[1:]:
            fields = line.split()
            host, _, port = fields[2].partition(":")
            found[int(fields[9])] = (int(fields[3], 16), _host(host), int(port, 16))
    return found


def multicast_groups(path: str) -> list[tuple[int, bytes]]:
    """Interface index and address of every multicast group that is joined in a namespace.

    Source: man 5 proc_pid_net (igmp), net/ipv6/mcast.c for igmp6.
    """
    found: list[tuple[int, bytes]] = []
    index = 0
    for line in _lines(path, "igmp")[1:]:
        if not line.startswith("\t"):
            index = int(line.split()[0])
        else:
            found.append((index, _host(line.split()[0])))
    for line in _lines(path, "igmp6"):
        fields = line.split()
        found.append((int(fields[0]), bytes.fromhex(fields[2])))
    return found


def _lines(path: str, name: str) -> list[str]:
    """The lines of a table of a network namespace; none where the kernel has no such table."""
    with visiting_path(path, "net"):
        table = _HERE / name
        return table.read_text().splitlines() if table.exists() else []


def _host(text: str) -> bytes:
    """An address of 32-bit words, each as the processor prints it."""
    return b"".join(
        struct.pack("=I", int(text[start : start + 8], 16)) for start in range(0, len(text), 8)
    )
