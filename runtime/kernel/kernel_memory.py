"""The kernel's own memory, read through BPF: for the little that no file and no call shows.

A program of type ``BPF_PROG_TYPE_SYSCALL`` runs when we ask for it, in our own context. This one
copies from any address into a map, with bpf_probe_read_kernel(), which fails where nothing is. It
can also say where our own ``task_struct`` is, and from there the kernel's types (BTF) lead to every
file we have open. Nothing is ever written, and the caller has to know that what it looks at holds
still.

Source: Documentation/bpf, man 7 bpf-helpers (Linux 5.14).
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import struct

from runtime.kernel import bpf
from runtime.kernel.btf import KernelTypes

log = logging.getLogger(__name__)

PAGE = 4096
MOST = 4096  # bytes of one read
_ROOM = struct.Struct("<QQ")  # in the map: where to read, where our task is; the bytes follow
# Where x86-64 has all memory, and its pages' descriptors, unless it was told to move them
_DIRECT_MAP, _PAGE_DESCRIPTORS, _DESCRIPTOR_SIZE = 0xFFFF888000000000, 0xFFFFEA0000000000, 64


class KernelMemory:
    """Reads the kernel's memory.

    Raises:
        OSError: No BPF, or no privilege for it (CAP_BPF and CAP_PERFMON).
        ValueError: No type information that we understand.
    """

    def __init__(self) -> None:
        self.types = KernelTypes()
        self._size = _ROOM.size + MOST
        self._map = bpf.create_array(self._size)
        try:
            self._program = bpf.load_syscall_program(_program(self._map), "wherry_read")
        except BaseException:
            os.close(self._map)
            raise
        self._offsets: dict[tuple[str, str], int] = {}

    def read(self, address: int, size: int) -> bytes:
        """Copy *size* bytes.

        Raises:
            OSError: EFAULT where there is no memory.
        """
        found = bytearray()
        while len(found) < size:
            at = address + len(found)
            # Up to the end of a page: what lies behind it may not be there.
            many = min(size - len(found), PAGE - at % PAGE)
            found += self._run(at, many)[0]
        return bytes(found)

    def _run(self, address: int, size: int) -> tuple[bytes, int]:
        """The bytes, and where our task is."""
        bpf.set_first_of_array(self._map, _ROOM.pack(address, size).ljust(self._size, b"\0"))
        result = bpf.run_syscall_program(self._program)
        room = bpf.first_of_array(self._map, self._size)
        if result and address:
            raise OSError(errno.EFAULT, f"no kernel memory at {address:#x}")
        return room[_ROOM.size : _ROOM.size + size], _ROOM.unpack_from(room)[1]

    def at(self, address: int, struct_name: str, member: str) -> int:
        """Where a member of the structure at *address* is."""
        key = struct_name, member
        if key not in self._offsets:
            self._offsets[key] = self.types.member_offset(struct_name, member)
        return address + self._offsets[key]

    def word(self, address: int, struct_name: str, member: str) -> int:
        """A member of 32 bits."""
        return int.from_bytes(self.read(self.at(address, struct_name, member), 4), "little")

    def pointer(self, address: int, struct_name: str = "", member: str = "") -> int:
        """A pointer at *address*, or in a member of the structure there."""
        where = self.at(address, struct_name, member) if member else address
        return int.from_bytes(self.read(where, 8), "little")

    def task(self) -> int:
        """Our own ``struct task_struct``: that of the calling thread."""
        return self._run(0, 8)[1]

    def file(self, fd: int) -> int:
        """The ``struct file`` behind a descriptor of ours."""
        files = self.pointer(self.task(), "task_struct", "files")
        table = self.pointer(self.pointer(files, "files_struct", "fdt"), "fdtable", "fd")
        return self.pointer(table + 8 * fd)

    def address_of_page(self, page: int) -> int:
        """Where the page is whose ``struct page`` is at *page*."""
        start = self._variable("vmemmap_base", _PAGE_DESCRIPTORS)
        return self._variable("page_offset_base", _DIRECT_MAP) + (
            (page - start) // _DESCRIPTOR_SIZE * PAGE
        )

    def _variable(self, name: str, default: int) -> int:
        address = _symbols().get(name)
        return default if address is None else self.pointer(address)


@functools.cache
def kernel_memory() -> KernelMemory | None:
    """The reader, loaded at the first call, or None where there can be none."""
    try:
        return KernelMemory()
    except (OSError, KeyError, ValueError) as exc:
        log.info("the kernel's memory cannot be read: %s", exc)
        return None


@functools.cache
def _symbols() -> dict[str, int]:
    found = {}
    with open("/proc/kallsyms") as file:
        for line in file:
            if line.endswith(("vmemmap_base\n", "page_offset_base\n")):
                address, _, name = line.split()[:3]
                found[name] = int(address, 16)
    return found


def _program(map_fd: int) -> bytes:
    """Copy from the address in the map into the map, and note where the current task is."""
    i = bpf.instruction
    return b"".join(
        (
            i(bpf.BPF_LD_IMM_DW, 6, bpf.BPF_PSEUDO_MAP_VALUE, 0, map_fd),
            i(0),
            i(bpf.BPF_LDX_MEM_DW, 7, 6, 8),  # how many bytes
            i(bpf.BPF_CALL, 0, 0, 0, bpf.BPF_FUNC_GET_CURRENT_TASK),
            i(bpf.BPF_STX_MEM_DW, 6, 0, 8),
            i(bpf.BPF_JMP_JGT_K, 7, 0, 5, MOST),  # the verifier has to see that it fits
            i(bpf.BPF_ALU64_MOV_X, 2, 7),
            i(bpf.BPF_LDX_MEM_DW, 3, 6, 0),
            i(bpf.BPF_ALU64_MOV_X, 1, 6),
            i(bpf.BPF_ALU64_ADD_K, 1, 0, 0, _ROOM.size),
            i(bpf.BPF_CALL, 0, 0, 0, bpf.BPF_FUNC_PROBE_READ_KERNEL),
            i(bpf.BPF_EXIT),
        )
    )
