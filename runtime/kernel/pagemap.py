"""/proc/PID/pagemap: which pages of a task exist.

``PAGEMAP_SCAN`` (Linux 6.7) answers for a whole address space in one call. Before it there is one
64-bit word a page, which a regular expression turns into runs without a Python step per page.
"""

from __future__ import annotations

import array
import errno
import fcntl
import mmap
import os
import re
import struct
from collections.abc import Iterable, Iterator

PAGE_SIZE = mmap.PAGESIZE

# PAGEMAP_SCAN and its categories, include/uapi/linux/fs.h
PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
PAGE_IS_WPALLOWED = 1 << 0
PAGE_IS_WRITTEN = 1 << 1
PAGE_IS_FILE = 1 << 2
PAGE_IS_PRESENT = 1 << 3
PAGE_IS_SWAPPED = 1 << 4
PAGE_IS_PFNZERO = 1 << 5
PAGE_IS_HUGE = 1 << 6
PAGE_IS_SOFT_DIRTY = 1 << 7
PAGE_IS_GUARD = 1 << 8

# Flags of PAGEMAP_SCAN, the same header
PM_SCAN_WP_MATCHING = 1 << 0

_REGIONS = 4096
_SCAN_ARG = struct.Struct("12Q")

# A pagemap word's top byte: bit 7 present, bit 6 swapped, bit 5 file page or shared anonymous.
_PRIVATE_WORD = rb".{7}[\x40-\x5f\x80-\x9f\xc0-\xdf]"
_OTHER_WORD = rb".{7}[^\x40-\x5f\x80-\x9f\xc0-\xdf]"
_RUNS = re.compile(rb"(?s)(?:%b)+|(?:%b)+" % (_PRIVATE_WORD, _OTHER_WORD))
_PRIVATE = re.compile(rb"(?s)" + _PRIVATE_WORD)
_RUNS_ANY = re.compile(rb"(?s)(?:.{7}[\x40-\xff])+|(?:.{7}[\x00-\x3f])+")
_PRESENT = re.compile(rb"(?s).{7}[\x40-\xff]")


def for_each_run(
    pid: int,
    start: int,
    end: int,
    *,
    private_only: bool = True,
    anonymous: bool = False,
) -> Iterator[tuple[int, int]]:
    """Yield the page runs of ``[start, end)`` that hold data, as (start, end) byte addresses.

    Pages that were never touched, and pages that still are the shared zero page, are left out:
    they read as zeros after a restore without being stored.

    Args:
        pid: Task id in our own pid namespace.
        start: Page-aligned byte address.
        end: Page-aligned byte address.
        private_only: Only pages that belong to the task alone: anonymous memory, and the pages of
            private file mappings that were written. With False, pages of the file as well.
        anonymous: There is only anonymous memory, or the rest does not matter. That spares the
            kernel a look at every page, which takes longer than all else.

    Raises:
        ProcessLookupError: The task has exited.

    Source: Documentation/admin-guide/mm/pagemap.rst.
    """
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            yield from _scan(fd, start, end, private_only and not anonymous)
        except OSError as exc:
            # Before Linux 6.7 there is no PAGEMAP_SCAN; read the words.
            if exc.errno not in (errno.ENOTTY, errno.EINVAL):
                raise
            yield from _read_words(fd, start, end, private_only)
    finally:
        os.close(fd)


def guard_runs(pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the guard regions (MADV_GUARD_INSTALL) of ``[start, end)``, as byte addresses.

    Only kernels that mark such mappings in smaps (``gu``) can be asked; they have PAGEMAP_SCAN.
    """
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield from _ask(fd, start, end, inverted=0, mask=PAGE_IS_GUARD, any_of=0)
    finally:
        os.close(fd)


def written_runs(fd: int, start: int, end: int, *, rearm: bool) -> Iterator[tuple[int, int]]:
    """Yield the pages of ``[start, end)`` that were written to since they were armed.

    Only of memory that a userfaultfd with WP_ASYNC tracks, which is private and anonymous.

    Pages that are not there are left out, and so are those that still are the zero page; they are
    not armed either, for whatever is put in their place counts as written.

    Args:
        fd: A task's /proc/PID/pagemap. The file belongs to the address space that the task had
            when it was opened.
        start: Page-aligned byte address.
        end: Page-aligned byte address.
        rearm: Arm the pages that are found, in the same step: no write is lost in between.

    Source: Documentation/admin-guide/mm/pagemap.rst (Linux 6.7).
    """
    # To ask for PAGE_IS_FILE as well would make it three times as slow: a look at every page.
    yield from _ask(
        fd,
        start,
        end,
        inverted=PAGE_IS_PFNZERO,
        mask=PAGE_IS_PFNZERO | PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN,
        any_of=PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        tell=0,
        flags=PM_SCAN_WP_MATCHING if rearm else 0,
    )


def unwritten_runs(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the pages of ``[start, end)`` that are as they were when they were armed.

    Args and source: As `written_runs`.
    """
    unwanted = PAGE_IS_PFNZERO | PAGE_IS_WRITTEN
    yield from _ask(
        fd,
        start,
        end,
        inverted=unwanted,
        mask=unwanted | PAGE_IS_WPALLOWED,
        any_of=PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        tell=0,
    )


def _scan(fd: int, start: int, end: int, private_only: bool) -> Iterator[tuple[int, int]]:
    unwanted = PAGE_IS_PFNZERO | (PAGE_IS_FILE if private_only else 0)
    present = PAGE_IS_PRESENT | PAGE_IS_SWAPPED
    tell = unwanted & PAGE_IS_FILE
    yield from _ask(fd, start, end, inverted=unwanted, mask=unwanted, any_of=present, tell=tell)


def _ask(
    fd: int,
    start: int,
    end: int,
    *,
    inverted: int,
    mask: int,
    any_of: int,
    flags: int = 0,
    tell: int = PAGE_IS_FILE,
) -> Iterator[tuple[int, int]]:
    regions = array.array("Q", bytes(24 * _REGIONS))
    while start < end:
        arg = bytearray(
            _SCAN_ARG.pack(
                _SCAN_ARG.size,
                flags,
                start,
                end,
                0,
                regions.buffer_info()[0],
                _REGIONS,
                0,
                inverted,
                mask,
                any_of,
                tell,
            )
        )
        found = fcntl.ioctl(fd, PAGEMAP_SCAN, arg)
        for index in range(0, 3 * found, 3):
            yield regions[index], regions[index + 1]
        if found < _REGIONS:
            return  # there was room for more: that was all
        # Not where it says that it has walked to: the kernel collects 512 regions at a time and
        # leaves there where it last had to interrupt itself, even if it has come to the end since.
        start = regions[3 * found - 2]


def _read_words(fd: int, start: int, end: int, private_only: bool) -> Iterator[tuple[int, int]]:
    runs, wanted = (_RUNS, _PRIVATE) if private_only else (_RUNS_ANY, _PRESENT)
    step = 64 << 20  # bytes of address space a read: 128 KiB of words
    while start < end:
        stop = min(end, start + step)
        words = os.pread(fd, (stop - start) // PAGE_SIZE * 8, start // PAGE_SIZE * 8)
        for match in runs.finditer(words):
            if wanted.match(words, match.start()):
                yield (
                    start + match.start() // 8 * PAGE_SIZE,
                    start + match.end() // 8 * PAGE_SIZE,
                )
        start = stop


# Whole runs of zero and of other 64-bit words
_ZERO_RUNS = re.compile(rb"(?s)(?:\0{8})+|(?:(?!\0{8}).{8})+")
_BIT_63 = b"\0\0\0\0\0\0\0\x80"
# Which page it is: bits 0 to 54, and 62 for swap; not soft-dirty, exclusive, write-protected
_IDENTITY = (1 << 55) - 1 | 1 << 62 | 1 << 63
_COALESCE = 32 * PAGE_SIZE
_STEP = 256 << 20  # bytes of address space a read: 512 KiB of words


def shared_runs(pid: int, other: int, runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the parts of *runs* where two tasks have the same physical pages, or swap entries.

    After a fork both have all private pages in common, until one of them writes.

    Args:
        pid: A stopped task.
        other: Another one; pages are compared at equal addresses.
        runs: (start, end) byte addresses, ascending.

    Raises:
        PermissionError: Without CAP_SYS_ADMIN the kernel shows no page numbers.

    Source: Documentation/admin-guide/mm/pagemap.rst.
    """
    ours = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        theirs = os.open(f"/proc/{other}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for start, end in _coalesced(runs):
                yield from _equal(ours, theirs, start, end)
        finally:
            os.close(theirs)
    finally:
        os.close(ours)


def _coalesced(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Runs with small gaps as one: the gaps hold no pages, so nothing is found there."""
    first, last = 0, 0
    for start, end in runs:
        if last and start - last <= _COALESCE and end - first <= _STEP:
            last = end
            continue
        if last:
            yield first, last
        first, last = start, end
    if last:
        yield first, last


def _equal(ours: int, theirs: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        stop = min(end, start + _STEP)
        place = ((stop - start) // PAGE_SIZE * 8, start // PAGE_SIZE * 8)
        a, b = os.pread(ours, *place), os.pread(theirs, *place)
        count = min(len(a), len(b)) // 8
        words = int.from_bytes(a[: 8 * count], "little")
        mask = int.from_bytes(_IDENTITY.to_bytes(8, "little") * count, "little")
        top = int.from_bytes(_BIT_63 * count, "little")
        differ = (words ^ int.from_bytes(b[: 8 * count], "little")) & mask
        absent = top ^ ((words | words << 1) & top)  # neither present nor swapped
        for match in _ZERO_RUNS.finditer((differ | absent).to_bytes(8 * count, "little")):
            if match[0][0:8] == bytes(8):
                yield (
                    start + match.start() // 8 * PAGE_SIZE,
                    start + match.end() // 8 * PAGE_SIZE,
                )
        start = stop
