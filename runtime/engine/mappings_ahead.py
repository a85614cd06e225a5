"""Address spaces, read by a thread while other things are looked at.

For each mapping in smaps the kernel goes through all of its pages: 16 ms for a GiB, in which this
interpreter can do something else.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from runtime.kernel.proc_maps import Mapping, mappings


class MappingsAhead:
    """The mappings of stopped processes; a context manager.

    Args:
        pids: The processes, in the order in which they will be asked for.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._found: queue.SimpleQueue[list[Mapping] | Exception] = queue.SimpleQueue()
        self._enough = False
        self._thread = threading.Thread(target=self._read, name="mappings")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._enough = True
        self._thread.join()

    def next(self) -> list[Mapping]:
        """The mappings of the next process.

        Raises:
            ProcessLookupError: It has ended.
        """
        found = self._found.get()
        if isinstance(found, Exception):
            raise found
        return found

    def _read(self) -> None:
        for pid in self._pids:
            if self._enough:
                return
            try:
                self._found.put(mappings(pid))
            except Exception as exc:  # whatever it is, who asks gets it
                self._found.put(exc)
