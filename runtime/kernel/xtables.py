"""The packet filters before nf_tables: tables of iptables and ip6tables, as one piece of memory.

The kernel gives a table's entries in the form in which it takes them, with the names of matches
and targets in place of its pointers.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from dataclasses import dataclass
from typing import Final

from runtime.kernel.libc import check, libc
from runtime.kernel.visit import visiting_path

# include/uapi/linux/netfilter_ipv4/ip_tables.h; ip6_tables.h has the same numbers
IPT_SO_SET_REPLACE, IPT_SO_SET_ADD_COUNTERS = 64, 65
IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES = 64, 65

_GETINFO: Final = struct.Struct("=32sI5I5III")  # struct ipt_getinfo
_GET_ENTRIES: Final = struct.Struct("=32sI4x")  # struct ipt_get_entries without its entries
_REPLACE: Final = struct.Struct("=32sIII5I5IIQ")  # struct ipt_replace without its entries
_COUNTERS_INFO: Final = struct.Struct("=32sI4x")  # struct xt_counters_info, the same
_COUNTERS_SIZE: Final = 16  # struct xt_counters

_getsockopt, _setsockopt = libc.getsockopt, libc.setsockopt


@dataclass(frozen=True, slots=True)
class Family:
    """One protocol's tables.

    Attributes:
        number: AF_*.
        level: Of its socket options.
        names: File below /proc/PID/net that lists the tables in use.
        next_offset: Where struct ipt_entry or ip6t_entry has the offset of the next entry.
        counters: Where it has its counters.
    """

    number: int
    level: int
    names: str
    next_offset: int
    counters: int


FAMILIES: Final = {
    socket.AF_INET: Family(socket.AF_INET, socket.IPPROTO_IP, "ip_tables_names", 90, 96),
    socket.AF_INET6: Family(socket.AF_INET6, socket.IPPROTO_IPV6, "ip6_tables_names", 142, 152),
}


@dataclass(frozen=True, slots=True)
class XTable:
    """A table.

    Attributes:
        name: "filter", "nat" and so on.
        valid_hooks: Bits of the hooks that it has chains for.
        hooks: Offset of each hook's first entry.
        underflows: Offset of each hook's policy.
        count: Number of entries.
        entries: All of them.
    """

    name: str
    valid_hooks: int
    hooks: tuple[int, ...]
    underflows: tuple[int, ...]
    count: int
    entries: bytes


def table_names(path: str, family: Family) -> list[str]:
    """The tables in use in a network namespace."""
    with visiting_path(path, "net"):
        try:
            with open(f"/proc/thread-self/net/{family.names}") as file:
                return file.read().split()
        except FileNotFoundError:  # a kernel without them
            return []


def read_table(path: str, family: Family, name: str) -> XTable:
    """A table of a network namespace.

    Raises:
        OSError: ENOENT for no such table.
    """
    with _socket(path, family) as sock:
        return _read(sock, family, name)


def write_table(path: str, family: Family, table: XTable) -> None:
    """Replace a table by another one of the same name, with its counters.

    Raises:
        OSError: The kernel refused: EINVAL for a malformed table, ENOENT for a match or target
            that it does not have.
        ValueError: An entry points outside of the table.
    """
    counters = _counters(family, table)
    with _socket(path, family) as sock:
        now = _read(sock, family, table.name)
        old = ctypes.create_string_buffer(now.count * _COUNTERS_SIZE)
        name = table.name.encode()
        head = _REPLACE.pack(
            name,
            table.valid_hooks,
            table.count,
            len(table.entries),
            *table.hooks,
            *table.underflows,
            now.count,
            ctypes.addressof(old),
        )
        _set(sock, family, IPT_SO_SET_REPLACE, head + table.entries)
        info = _COUNTERS_INFO.pack(name, table.count)
        _set(sock, family, IPT_SO_SET_ADD_COUNTERS, info + counters)


def _socket(path: str, family: Family) -> socket.socket:
    with visiting_path(path, "net"):
        return socket.socket(family.number, socket.SOCK_RAW, socket.IPPROTO_RAW)


def _read(sock: socket.socket, family: Family, name: str) -> XTable:
    request = _GETINFO.pack(name.encode(), *(0,) * 13)
    info = _GETINFO.unpack(_get(sock, family, IPT_SO_GET_INFO, request))
    size, count = info[13], info[12]
    request = _GET_ENTRIES.pack(name.encode(), size) + bytes(size)
    entries = _get(sock, family, IPT_SO_GET_ENTRIES, request)[_GET_ENTRIES.size :]
    return XTable(name, info[1], info[2:7], info[7:12], count, entries)


def _counters(family: Family, table: XTable) -> bytes:
    found, offset = b"", 0
    for _ in range(table.count):
        if offset + family.counters + _COUNTERS_SIZE > len(table.entries):
            raise ValueError(f"table {table.name}: an entry lies outside")
        start = offset + family.counters
        found += table.entries[start : start + _COUNTERS_SIZE]
        offset += struct.unpack_from("=H", table.entries, offset + family.next_offset)[0]
    return found


def _get(sock: socket.socket, family: Family, option: int, request: bytes) -> bytes:
    """getsockopt(2) with a value that says what is asked for; Python's gives zeros to the call."""
    buffer = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint(len(request))
    check(
        _getsockopt(sock.fileno(), family.level, option, buffer, ctypes.byref(length)),
        f"getsockopt({option})",
    )
    return buffer.raw


def _set(sock: socket.socket, family: Family, option: int, value: bytes) -> None:
    buffer = ctypes.create_string_buffer(value, len(value))
    check(
        _setsockopt(sock.fileno(), family.level, option, buffer, len(value)),
        f"setsockopt({option})",
    )
