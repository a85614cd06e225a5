"""Pre-copy, the destination's side: what rounds bring is kept until the program is rebuilt from it.

All of it lies in one file without a name in memory: each object of the rounds has a window of the
size of an address space in it, in which its content stands at its own addresses. So a round that
brings a page again just overwrites it, and the kernel keeps the account of what is there.

The other side is not to be trusted with our memory: what it sends is bounded, whatever it calls it,
and what its last image takes from here must have come in the very rounds that it names.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from formats.errors import ImageCorruptError
from formats.records.codec import Record
from formats.records.memory import Staged, Staging
from formats.staged import ranges_of
from formats.statefile import Chunk, ImageReader
from runtime.engine.ranges import Range, gaps, union
from runtime.errors import RestoreError

WINDOW = 1 << 47  # bytes: an address space, as programs have it that do not ask for more
MAX_OBJECTS = 1 << 15  # so that every window lies below the greatest size of a file
_STEP = 4 << 20  # bytes that are copied at once
_THREADS = 2


class StagedMemory:
    """The content of the rounds so far.

    Args:
        limit_bytes: How much of it is taken in at most.

    Attributes:
        roots: Root digests of the rounds so far.
        size_bytes: What there is.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._fd = os.memfd_create("wherry-staged", os.MFD_CLOEXEC)
        self._windows: dict[int, int] = {}
        self._held: dict[int, list[Range]] = {}  # what has come, by object
        self._fresh: dict[int, list[Range]] = {}  # the same of the round under way
        self._lock = threading.Lock()
        self.roots: list[bytes] = []

    def fileno(self) -> int:
        """The descriptor of the file that holds it."""
        return self._fd

    def close(self) -> None:
        """Drop all of it. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._fd).st_blocks * 512

    def take(self, reader: ImageReader) -> None:
        """Take in a round.

        Raises:
            ImageError: It is damaged; what has come of it may be here.
            RestoreError: It is more than was agreed upon, or the host has no room for it.
        """
        if reader.records():
            raise RestoreError("a round brings records", reason="image-inconsistent")
        self._fresh = {}
        reader.for_each_chunk(self._put)
        for object_id, came in self._fresh.items():
            self._held[object_id] = union(self._held.get(object_id, []), sorted(came))
        self.roots.append(reader.finish().root)

    def _put(self, chunk: Chunk, data: memoryview) -> None:
        base = self._window(chunk.object_id)
        if chunk.runs[-1][0] + chunk.runs[-1][1] > WINDOW:
            raise ImageCorruptError(f"a round has content at {chunk.offset:#x}")
        done = 0
        for start, length in chunk.runs:
            self._write(data[done : done + length], base + start)
            done += length
        came = [(start, start + length) for start, length in chunk.runs]
        with self._lock:
            self._fresh.setdefault(chunk.object_id, []).extend(came)
        if self.size_bytes > self._limit:
            raise RestoreError(
                f"the rounds bring more than {self._limit} bytes", reason="staging-limit"
            )

    def _write(self, data: memoryview, at: int) -> None:
        try:
            while data:
                written = os.pwrite(self._fd, data, at)
                data, at = data[written:], at + written
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.ENOMEM):
                raise
            raise RestoreError(
                f"no room for staged memory: {os.strerror(exc.errno)}", reason="staging-room"
            ) from exc

    def _window(self, object_id: int) -> int:
        with self._lock:
            known = self._windows.get(object_id)
            if known is None:
                if len(self._windows) >= MAX_OBJECTS:
                    raise RestoreError(
                        f"the rounds bring more than {MAX_OBJECTS} objects", reason="staging-limit"
                    )
                known = self._windows[object_id] = len(self._windows) * WINDOW
            return known

    def for_image(self, records: Iterable[Record]) -> StagedSource | None:
        """What an image takes from here; None when it does not build upon rounds.

        Raises:
            RestoreError: It builds upon other rounds, or takes what did not come.
        """
        records = list(records)
        named = [record for record in records if isinstance(record, Staging)]
        taken = [record for record in records if isinstance(record, Staged)]
        if not named and not taken:
            return None
        if len(named) != 1 or list(named[0].roots) != self.roots:
            raise RestoreError(
                "the image builds upon other rounds than have come", reason="image-inconsistent"
            )
        parts: dict[int, tuple[int, list[Range]]] = {}
        origin: dict[int, int] = {}
        for record in taken:
            base = self._windows.get(record.staged_id)
            same = origin.setdefault(record.object_id, record.staged_id) == record.staged_id
            if base is None or not same:
                raise _not_there(record.object_id)
            parts.setdefault(record.object_id, (base, []))[1].extend(ranges_of(record))
        for object_id, (_, ranges) in parts.items():
            if any(a[1] > b[0] for a, b in itertools.pairwise(ranges)) or any(
                gaps(ranges, self._held.get(origin[object_id], []))
            ):
                raise _not_there(object_id)
        return StagedSource(self._fd, parts)


def _not_there(object_id: int) -> RestoreError:
    return RestoreError(
        f"the image takes memory of object {object_id} from the rounds that did not come",
        reason="image-inconsistent",
    )


class StagedSource:
    """The staged content of one image, by the image's objects: a `PageSource`."""

    def __init__(self, fd: int, parts: dict[int, tuple[int, list[Range]]]) -> None:
        self._fd = fd
        self._parts = parts

    def only(self, parts: Mapping[int, list[Range]]) -> StagedSource:
        """A source of these parts of it alone, by object."""
        bases = {object_id: self._parts[object_id][0] for object_id in parts}
        return StagedSource(
            self._fd, {object_id: (bases[object_id], runs) for object_id, runs in parts.items()}
        )

    def runs(self, object_id: int) -> Sequence[Range]:
        """Which addresses of an object have content here, ascending."""
        return self._parts.get(object_id, (0, []))[1]

    def read(self, object_id: int, start: int, length: int) -> memoryview:
        """The content from *start* on: a view of the file, writable as the kernel wants it."""
        base, _ = self._parts[object_id]
        return memoryview(mmap.mmap(self._fd, length, offset=base + start, flags=_FLAGS))

    def kept_fds(self) -> Iterable[int]:
        """The descriptors that `read` works with."""
        return (self._fd,)

    def close(self) -> None:
        """Nothing: the descriptor belongs to the `StagedMemory`."""

    def for_each(
        self,
        object_id: int,
        runs: Sequence[Range],
        put: Callable[[Range, memoryview], None],
    ) -> int:
        """Hand on content of an object, in several threads; returns bytes.

        Args:
            object_id: Of the object.
            runs: Which; parts of what `runs` says.
            put: Called with (start, length) and the bytes, which are valid until it returns.
        """
        pieces = [
            (at, min(_STEP, end - at)) for start, end in runs for at in range(start, end, _STEP)
        ]
        if pieces:
            with ThreadPoolExecutor(_THREADS) as pool:
                for _ in pool.map(lambda piece: put(piece, self.read(object_id, *piece)), pieces):
                    pass
        return sum(length for _, length in pieces)


_FLAGS = mmap.MAP_SHARED | mmap.MAP_POPULATE
