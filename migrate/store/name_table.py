"""Records by name, many millions of them, in a file without a name instead of in our memory.

A record is a name of 32 bytes and some more bytes, always as many. Names are digests, so they are
spread evenly: sorted records are cut into 65 536 *buckets* by the first two bytes of their names,
and only where each bucket begins is held in memory. To find a name is to look for it in its bucket.

What is added is sorted by batches, and spooled; the first question puts all batches in order, one
256th of them at a time. So memory is bounded by that part and by the largest batch, whatever the
number of records, and no step is made for single records in Python but those of the caller.

The file is in the directory for temporary files (``TMPDIR``). It holds names of chunks and places
in packs, which stand in the store for everybody to see, or are digests under a key.
"""

from __future__ import annotations

import array
import mmap
import os
import tempfile
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator

NAME_SIZE = 32
_PARTS = 256
_BUCKETS = 1 << 16

_Run = tuple[int, int, list[int]]  # descriptor, offset in bytes, where each part begins, in records


class NameTable:
    """See above. Questions may be asked by several threads; records are added by one.

    Args:
        size: Bytes of a record.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._spool = tempfile.TemporaryFile(prefix="wherry-", buffering=0)  # noqa: SIM115
        self._spooled = 0
        self._runs: list[_Run] = []
        self._lock = threading.Lock()
        self._sorted = tempfile.TemporaryFile(prefix="wherry-", buffering=0)  # noqa: SIM115
        self._map: mmap.mmap | None = None
        self._starts = array.array("Q", bytes(8 * (_BUCKETS + 1)))
        self._distinct = 0
        self._fresh = True  # whether there is nothing spooled

    def add(self, records: Iterable[bytes]) -> None:
        """Add records; equal names are all kept."""
        batch = sorted(records)
        if not batch:
            return
        parts = [bisect_left(batch, bytes([part])) for part in range(_PARTS)]
        self._runs.append((self._spool.fileno(), self._spooled, [*parts, len(batch)]))
        self._spooled += _write(self._spool.fileno(), b"".join(batch))
        self._fresh = False

    def __len__(self) -> int:
        """How many different names there are."""
        self._settle()
        return self._distinct

    def find(self, name: bytes) -> list[bytes]:
        """What follows the name in each record that has it, in order."""
        if not self._fresh:
            self._settle()
        if self._map is None:
            return []
        number = name[0] << 8 | name[1]
        size = self._size
        bucket = self._map[self._starts[number] * size : self._starts[number + 1] * size]
        at = bucket.find(name)
        while at >= 0 and at % size:
            at = bucket.find(name, at + 1)
        found = []
        while at >= 0 and bucket.startswith(name, at):
            found.append(bucket[at + NAME_SIZE : at + size])
            at += size
        return found

    def __iter__(self) -> Iterator[bytes]:
        """Every name once, in order."""
        last = b""
        for record in self.records():
            name = record[:NAME_SIZE]
            if name != last:
                yield name
                last = name

    def records(self) -> Iterator[bytes]:
        """All records, in order."""
        self._settle()
        for start in range(0, _BUCKETS, _BUCKETS // _PARTS):
            first, last = self._starts[start], self._starts[start + _BUCKETS // _PARTS]
            if self._map is not None and first < last:
                yield from self._cut(self._map[first * self._size : last * self._size])

    def close(self) -> None:
        """Let go of the files. Idempotent."""
        if self._map is not None:
            self._map.close()
            self._map = None
        self._spool.close()
        self._sorted.close()

    def _cut(self, raw: bytes) -> list[bytes]:
        size = self._size
        return [raw[at : at + size] for at in range(0, len(raw), size)]

    def _settle(self) -> None:
        with self._lock:
            if self._fresh:
                return
            self._sort()
            self._fresh = True

    def _sort(self) -> None:
        """Put what was spooled, and what was sorted before, into one order."""
        runs = list(self._runs)
        if self._map is not None:
            step = _BUCKETS // _PARTS
            runs.insert(0, (self._sorted.fileno(), 0, list(self._starts[::step])))
        target = tempfile.TemporaryFile(prefix="wherry-", buffering=0)  # noqa: SIM115
        starts, total, distinct = array.array("Q"), 0, 0
        for part in range(_PARTS):
            records: list[bytes] = []
            for fd, offset, begins in runs:
                length = (begins[part + 1] - begins[part]) * self._size
                records += self._cut(_read(fd, length, offset + begins[part] * self._size))
            records.sort()  # runs that are in order already take little time
            starts.extend(
                total + bisect_left(records, bytes([part, second])) for second in range(256)
            )
            total += len(records)
            distinct += len({record[:NAME_SIZE] for record in records})
            _write(target.fileno(), b"".join(records))
        starts.append(total)
        if self._map is not None:
            self._map.close()
        self._sorted.close()
        self._sorted, self._starts, self._distinct = target, starts, distinct
        self._map = mmap.mmap(target.fileno(), total * self._size, prot=mmap.PROT_READ)
        self._runs.clear()
        os.ftruncate(self._spool.fileno(), 0)
        os.lseek(self._spool.fileno(), 0, os.SEEK_SET)
        self._spooled = 0


class NameSet:
    """A set of names that moves into a table when it becomes large."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: set[bytes] = set()
        self._table: NameTable | None = None

    def update(self, names: Iterable[bytes]) -> None:
        """Add names."""
        for name in names:
            self._names.add(name)
            if len(self._names) >= self._most:
                if self._table is None:
                    self._table = NameTable(NAME_SIZE)
                self._table.add(self._names)
                self._names = set()

    def __iter__(self) -> Iterator[bytes]:
        """Each name once."""
        if self._table is None:
            yield from self._names
            return
        self._table.add(self._names)
        self._names = set()
        yield from self._table


def _write(fd: int, data: bytes) -> int:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    return len(data)


def _read(fd: int, length: int, offset: int) -> bytes:
    parts = []
    while length:
        part = os.pread(fd, length, offset)
        if not part:
            raise OSError(f"a temporary file ends at byte {offset}")
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return b"".join(parts)
