"""/proc/PID/smaps: the mappings of a task.

smaps rather than maps, because only ``VmFlags`` tells growth direction, locking and advice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from runtime.kernel.escapes import unescape
from runtime.kernel.procfs import read_bytes

_ENTRY = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-])([ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)"
    rb" *([^\n]*)\n"
    rb"Size:[^\n]*\nKernelPageSize: +(\d+) kB\n"
    rb"(?:(?!VmFlags|ProtectionKey)[A-Z][^\n]*\n)*"
    rb"(?:ProtectionKey: +(\d+)\n)?"
    rb"VmFlags: ([^\n]*)\n",
    re.MULTILINE,
)

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4


class Mapping(NamedTuple):
    """One line of maps with its ``VmFlags``.

    Attributes:
        start: Byte address.
        end: Byte address, exclusive.
        protection: ``PROT_*`` bits.
        shared: MAP_SHARED rather than MAP_PRIVATE.
        offset: Bytes into the file.
        device: As os.makedev gives it.
        inode: 0 for anonymous memory.
        path: What the kernel prints: a path, ``[heap]``, or empty.
        page_size: Bytes; greater than a page for hugetlbfs.
        protection_key: pkeys(7); 0 for the default key.
        vm_flags: Two-letter codes, Documentation/filesystems/proc.rst.
    """

    start: int
    end: int
    protection: int
    shared: bool
    offset: int
    device: tuple[int, int]
    inode: int
    path: str
    page_size: int
    protection_key: int
    vm_flags: frozenset[str]

    @property
    def map_file(self) -> str:
        """Name below /proc/PID/map_files."""
        return f"{self.start:x}-{self.end:x}"


def mappings(pid: int) -> list[Mapping]:
    """Return the mappings of a task by address.

    Raises:
        ProcessLookupError: The task has exited.

    Source: man 5 proc_pid_smaps.
    """
    found = []
    for match in _ENTRY.finditer(read_bytes(f"/proc/{pid}/smaps")):
        *line, page_kib, key, codes = match.groups()
        found.append(_mapping(line, int(page_kib) << 10, int(key or 0), _codes(codes)))
    return found


def _mapping(
    line: Sequence[bytes], page_size: int, protection_key: int, vm_flags: frozenset[str]
) -> Mapping:
    start, end, protection, shared, offset, major, minor, inode, path = line
    return Mapping(
        int(start, 16),
        int(end, 16),
        _protection(protection),
        shared == b"s",
        int(offset, 16),
        (int(major, 16), int(minor, 16)),
        int(inode),
        unescape(path),
        page_size,
        protection_key,
        vm_flags,
    )


@cache  # few are ever seen
def _protection(letters: bytes) -> int:
    bits = {ord("r"): PROT_READ, ord("w"): PROT_WRITE, ord("x"): PROT_EXEC}
    return sum(bits.get(letter, 0) for letter in letters)


@cache
def _codes(line: bytes) -> frozenset[str]:
    return frozenset(line.decode().split())


_LINE = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-])([ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)"
    rb" *([^\n]*)$",
    re.MULTILINE,
)


def lines(pid: int) -> list[Mapping]:
    """As `mappings`, from maps: without flags and keys, and without a look at every page.

    Source: man 5 proc_pid_maps.
    """
    found = _LINE.finditer(read_bytes(f"/proc/{pid}/maps"))
    return [_mapping(match.groups(), 0, 0, frozenset()) for match in found]


def is_segment(mapping: Mapping) -> bool:
    """Whether a mapping is System V memory; its inode number is the segment's id then.

    Source: ipc/shm.c, newseg().
    """
    return mapping.path.startswith("/SYSV") and mapping.path.endswith(" (deleted)")
