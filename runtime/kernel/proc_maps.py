"""/proc/PID/smaps: the mappings of a task.

smaps rather than maps, because only ``VmFlags`` tells growth direction, locking and advice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from runtime.kernel.escapes import unescape
from runtime.kernel.procfs import read_bytes

_ENTRY = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) ([r-])([w-])([x-])([ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)"
    rb" *([^\n]*)\n"
    rb"Size:[^\n]*\nKernelPageSize: +(\d+) kB\n"
    rb"(?:(?!VmFlags|ProtectionKey)[A-Z][^\n]*\n)*"
    rb"(?:ProtectionKey: +(\d+)\n)?"
    rb"VmFlags: ([^\n]*)\n",
    re.MULTILINE,
)

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Mapping:
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
    text = read_bytes(f"/proc/{pid}/smaps")
    found: list[Mapping] = []
    for match in _ENTRY.finditer(text):
        read, write, execute = match[3] == b"r", match[4] == b"w", match[5] == b"x"
        found.append(
            Mapping(
                start=int(match[1], 16),
                end=int(match[2], 16),
                protection=read * PROT_READ | write * PROT_WRITE | execute * PROT_EXEC,
                shared=match[6] == b"s",
                offset=int(match[7], 16),
                device=(int(match[8], 16), int(match[9], 16)),
                inode=int(match[10]),
                path=unescape(match[11]),
                page_size=int(match[12]) << 10,
                protection_key=int(match[13] or 0),
                vm_flags=frozenset(match[14].decode().split()),
            )
        )
    return found


_LINE = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) ([r-])([w-])([x-])([ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)"
    rb" *([^\n]*)$",
    re.MULTILINE,
)


def lines(pid: int) -> list[Mapping]:
    """As `mappings`, from maps: without flags and keys, and without a look at every page.

    Source: man 5 proc_pid_maps.
    """
    return [
        Mapping(
            start=int(match[1], 16),
            end=int(match[2], 16),
            protection=(match[3] == b"r") * PROT_READ
            | (match[4] == b"w") * PROT_WRITE
            | (match[5] == b"x") * PROT_EXEC,
            shared=match[6] == b"s",
            offset=int(match[7], 16),
            device=(int(match[8], 16), int(match[9], 16)),
            inode=int(match[10]),
            path=unescape(match[11]),
            page_size=0,
            protection_key=0,
            vm_flags=frozenset(),
        )
        for match in _LINE.finditer(read_bytes(f"/proc/{pid}/maps"))
    ]


def is_segment(mapping: Mapping) -> bool:
    """Whether a mapping is System V memory; its inode number is the segment's id then.

    Source: ipc/shm.c, newseg().
    """
    return mapping.path.startswith("/SYSV") and mapping.path.endswith(" (deleted)")
