"""Address spaces and shared memory."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from formats.records.codec import record


class Backing(enum.StrEnum):
    """What stands behind a mapping."""

    ANONYMOUS = "anonymous"  # private memory
    FILE = "file"  # a file record
    SHARED = "shared"  # a shared-memory record
    SEGMENT = "segment"  # a System V segment: a shared-memory record that has an id
    AIO = "aio"  # the ring of an asynchronous I/O context, which has a record of its own
    SOCKET = "socket"  # an open socket's record: the rings of a packet socket
    VDSO = "vdso"  # the kernel's code page and its data pages


@dataclass(frozen=True, slots=True)
class Vma:
    """One mapping, half-open ``[start, end)``.

    Attributes:
        start: Byte address.
        end: Byte address.
        protection: ``PROT_*`` bits.
        flags: ``MAP_*`` bits that recreate it (shared or private, growsdown, noreserve, locked).
        backing: What stands behind it.
        object_id: File or shared-memory record; 0 for none.
        offset: Bytes into that object.
        advice: ``MADV_*`` values that were given for it.
        name: ``[vdso]``, ``[vvar]`` and the like, or the name of an anonymous mapping.
        accounted: Whether its memory counts against the overcommit limit: it is, or once was,
            private and writable.
        lock_on_fault: With MAP_LOCKED among the flags: only pages that are touched, mlock2(2).
        read_only: Whether shared memory can never be written through it: a System V segment
            attached with SHM_RDONLY, a file that is sealed or was opened for reading only.
        huge_page_size: Bytes of the pages of a private hugetlb mapping; 0 for ordinary pages.
        sealed: mseal(2).
        guards: (start, length) in bytes of guard regions, MADV_GUARD_INSTALL.
    """

    start: int
    end: int
    protection: int
    flags: int
    backing: Backing
    object_id: int = 0
    offset: int = 0
    advice: tuple[int, ...] = ()
    name: str = ""
    accounted: bool = True
    lock_on_fault: bool = False
    read_only: bool = False
    huge_page_size: int = 0
    sealed: bool = False
    guards: tuple[tuple[int, int], ...] = ()

    @property
    def map_file(self) -> str:
        """Name below /proc/PID/map_files."""
        return f"{self.start:x}-{self.end:x}"


@dataclass(frozen=True, slots=True)
class Layout:
    """``struct prctl_mm_map`` without the pointers, prctl(2) PR_SET_MM_MAP."""

    start_code: int
    end_code: int
    start_data: int
    end_data: int
    start_brk: int
    brk: int
    start_stack: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int


@record("mm")
@dataclass(frozen=True, slots=True)
class AddressSpace:
    """One address space; its private pages are the chunks of object ``mm_id``.

    Attributes:
        mm_id: Object id; chunk offsets are byte addresses.
        layout: Where code, heap, stack, arguments and environment are.
        auxv: The auxiliary vector, as in /proc/PID/auxv.
        exe_file_id: File record of the program.
        vmas: By address.
        locked_future: mlockall(2) flags in force for new mappings, or 0.
        early_id: Object that holds pages of private mappings, ahead of other contents, since
            children share some of them; 0 if none does.
        early_files: File records whose private mappings are among these; beside anonymous ones.
        parent_mm_id: The address space that this one was forked from, if they still share pages.
        shared: (start, length) in bytes of these pages; they are stored with the parent.
    """

    mm_id: int
    layout: Layout
    auxv: bytes
    exe_file_id: int
    vmas: tuple[Vma, ...]
    locked_future: int = 0
    early_id: int = 0
    early_files: tuple[int, ...] = ()
    parent_mm_id: int = 0
    shared: tuple[tuple[int, int], ...] = ()


@record("shared-memory")
@dataclass(frozen=True, slots=True)
class SharedMemory:
    """An anonymous object shared by mappings; its pages are the chunks of object ``object_id``.

    Attributes:
        object_id: Chunk offsets are byte offsets into the object.
        size: Bytes.
        huge_page_size: Bytes of its pages when they are of hugetlbfs; 0 for ordinary pages.
    """

    object_id: int
    size: int
    huge_page_size: int = 0


@record("staged")
@dataclass(frozen=True, slots=True)
class Staged:
    """Content that the receiver of an image has already, from rounds that came before it.

    Only in an image with the feature ``staged-memory``, as a live migration sends it; there may be
    several for one object.

    Attributes:
        object_id: Whose content: as that of a chunk would be.
        staged_id: The object of the rounds that it lies in, at the same addresses.
        ranges: (start, end) byte addresses as little-endian 64-bit numbers: ascending,
            page-aligned, not overlapping.
    """

    object_id: int
    staged_id: int
    ranges: bytes


@record("staging")
@dataclass(frozen=True, slots=True)
class Staging:
    """The rounds that an image with the feature ``staged-memory`` builds upon, in their order.

    Attributes:
        roots: Root digest of each round's image.
    """

    roots: tuple[bytes, ...]


@record("elsewhere")
@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Content of an address space that is still where the image comes from.

    Only in an image with the feature ``pages-elsewhere``, as a post-copy migration sends it; there
    may be several for one address space.

    Attributes:
        mm_id: Whose content: as that of a chunk would be.
        ranges: (start, end) byte addresses as little-endian 64-bit numbers: ascending,
            page-aligned, not overlapping.
    """

    mm_id: int
    ranges: bytes
