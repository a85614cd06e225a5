"""Probes of what wherry reads from and writes into address spaces."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from pathlib import Path

from runtime.kernel import pagemap, userfaultfd
from runtime.kernel.features import Need, UnavailableError, probe
from runtime.kernel.probes.attempt import raw, subject

_GROUP = "memory"

# <linux/fs.h>
PAGEMAP_SCAN = 0xC0606610  # Linux 6.7
PROCMAP_QUERY = 0xC0686611  # Linux 6.11
PAGE_IS_PRESENT = 1 << 3
# <linux/mman.h>
_MREMAP_DONTUNMAP = 1 | 2 | 4  # with MREMAP_MAYMOVE and MREMAP_FIXED, Linux 5.7
_SIZE = mmap.PAGESIZE
# Documentation/admin-guide/mm/pagemap.rst
PM_SOFT_DIRTY = 1 << 55


def _page() -> mmap.mmap:
    """One written private page of our own."""
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    page[0] = 1
    return page


def _address(page: mmap.mmap) -> int:
    view = ctypes.c_char.from_buffer(page)
    address = ctypes.addressof(view)
    del view
    return address


@probe(
    "process-vm",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="copying memory out of and into tasks in large pieces",
    without_it="no checkpoint and no restore",
)
def _process_vm() -> str:
    page = _page()
    target = ctypes.create_string_buffer(1)
    with subject() as pid:
        local = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(target), 1), 16)
        remote = ctypes.create_string_buffer(struct.pack("QQ", _address(page), 1), 16)
        vectors = (ctypes.addressof(local), 1, ctypes.addressof(remote), 1)
        raw("process_vm_readv", pid, *vectors, 0)
    if target.raw != b"\x01":
        raise UnavailableError("process_vm_readv returned other bytes than the child has")
    return ""


@probe(
    "map-files",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="opening what a mapping shows, also when its file was deleted",
    without_it="no checkpoint",
)
def _map_files() -> str:
    with subject() as pid:
        entries = Path(f"/proc/{pid}/map_files")
        for entry in sorted(os.listdir(entries)):
            os.stat(entries / entry)
            return ""
    raise UnavailableError("/proc/PID/map_files is empty")


@probe(
    "pagemap-scan",
    group=_GROUP,
    used_for="finding present and written pages with one call per mapping (PAGEMAP_SCAN)",
    without_it="the 64-bit words of /proc/PID/pagemap are read instead",
)
def _pagemap_scan() -> str:
    page = _page()
    start = _address(page)
    vector = ctypes.create_string_buffer(24)
    # struct pm_scan_arg: size, flags, start, end, walk_end, vec, vec_len, max_pages,
    # category_inverted, category_mask, category_anyof_mask, return_mask
    words = (96, 0, start, start + mmap.PAGESIZE, 0, ctypes.addressof(vector), 1, 0)
    argument = bytearray(struct.pack("12Q", *words, 0, PAGE_IS_PRESENT, 0, PAGE_IS_PRESENT))
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        if fcntl.ioctl(pagemap, PAGEMAP_SCAN, argument) != 1:
            raise UnavailableError("PAGEMAP_SCAN did not see a written page")
    return ""


@probe(
    "procmap-query",
    group=_GROUP,
    need=Need.UNUSED,
    used_for="asking about one mapping without reading them all",
    without_it="/proc/PID/maps is read, as this version always does",
)
def _procmap_query() -> str:
    page = _page()
    # struct procmap_query: size, query_flags, query_addr, then what the kernel fills in
    argument = bytearray(struct.pack("3Q", 104, 0, _address(page)) + bytes(80))
    with Path("/proc/self/maps").open("rb", buffering=0) as maps:
        fcntl.ioctl(maps, PROCMAP_QUERY, argument)
    return ""


@probe(
    "userfaultfd",
    group=_GROUP,
    need=Need.OPTIONAL,
    used_for="handing in pages when they are first touched (wherry restore --lazy)",
    without_it="memory is complete before a restored task runs, also with --lazy",
)
def _userfaultfd() -> str:
    os.close(raw("userfaultfd", os.O_CLOEXEC | os.O_NONBLOCK))
    return ""


@probe(
    "userfaultfd-wp-async",
    group=_GROUP,
    used_for="knowing which pages were written to between two looks (a live migration)",
    without_it="a migration stops the container while all of its memory travels",
)
def _userfaultfd_wp_async() -> str:
    fd = raw("userfaultfd", userfaultfd.FLAGS)
    try:
        userfaultfd.enable_write_tracking(fd)
        old, new = _page(), _page()
        if _written(fd, _address(old)) != [True, False]:
            raise UnavailableError("a page does not stay armed")
        # Kernels without "mm: clear uffd-wp PTE/PMD state on mremap()" take the mark along, and
        # memory at a place where it never was would seem to be unwritten there.
        raw("mremap", _address(old), _SIZE, _SIZE, _MREMAP_DONTUNMAP, _address(new))
        if _written(fd, _address(new)) != [True, False]:
            raise UnavailableError("a page that mremap has moved stays armed")
    finally:
        os.close(fd)
    return ""


def _written(fd: int, page: int) -> list[bool]:
    """Register and arm a page; whether it counted as written, before and after."""
    userfaultfd.track_writes(fd, page, page + _SIZE)
    with Path("/proc/self/pagemap").open("rb", buffering=0) as own:
        looks = [
            list(pagemap.written_runs(own.fileno(), page, page + _SIZE, rearm=rearm))
            for rearm in (True, False)
        ]
    return [bool(look) for look in looks]


@probe(
    "soft-dirty",
    group=_GROUP,
    need=Need.UNUSED,
    used_for="knowing which pages were written, where userfaultfd cannot tell",
    without_it="userfaultfd with WP_ASYNC, else comparing digests of chunks",
)
def _soft_dirty() -> str:
    page = _page()
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        word = os.pread(pagemap.fileno(), 8, _address(page) // mmap.PAGESIZE * 8)
    if not struct.unpack("Q", word)[0] & PM_SOFT_DIRTY:
        raise UnavailableError("a written page has no soft-dirty bit (CONFIG_MEM_SOFT_DIRTY)")
    return ""


@probe(
    "transparent-huge-pages",
    group=_GROUP,
    need=Need.UNUSED,
    used_for="workloads that ask for them; their wish is kept",
    without_it="their wish has no effect",
)
def _transparent_huge_pages() -> str:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().strip()
    if "[never]" in setting:
        raise UnavailableError("switched off in /sys/kernel/mm/transparent_hugepage/enabled")
    return setting.partition("[")[2].partition("]")[0]


@probe(
    "huge-pages",
    group=_GROUP,
    need=Need.UNUSED,
    used_for="workloads that map hugetlb pages",
    without_it="no workload can have any",
)
def _huge_pages() -> str:
    count = int(Path("/proc/sys/vm/nr_hugepages").read_text())
    if count == 0:
        raise UnavailableError("none are set aside (vm.nr_hugepages is 0)")
    return f"{count} set aside"
