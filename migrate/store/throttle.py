"""Writing into a store no faster than somebody allows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

from migrate.store.backend import Backend, Entry, Linking


def throttled(inner: Backend, bytes_per_s: float) -> Backend:
    """A backend that puts no more than so many bytes a second, on the average of a few objects.

    Reading is not slowed down: a restore is in a hurry.
    """
    if isinstance(inner, Linking):
        return _ThrottledLinking(inner, inner, bytes_per_s)
    return _Throttled(inner, bytes_per_s)


class _Throttled:
    """An object goes whole; the next one waits until its time is over."""

    def __init__(self, inner: Backend, bytes_per_s: float) -> None:
        self._inner = inner
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._due = 0.0

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, name: str, data: bytes | bytearray | memoryview, *, replace: bool = True) -> bool:
        size = memoryview(data).nbytes
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._due)  # time in which nothing was sent is not saved up
            self._due = begin + size / self._bytes_per_s
        time.sleep(begin - now)
        return self._inner.put(name, data, replace=replace)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._inner.get(name, offset, length)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        return self._inner.entries(prefix)

    def remove(self, name: str) -> None:
        self._inner.remove(name)

    def close(self) -> None:
        self._inner.close()


class _ThrottledLinking(_Throttled):
    def __init__(self, inner: Backend, linking: Linking, bytes_per_s: float) -> None:
        super().__init__(inner, bytes_per_s)
        self._linking = linking

    def link(self, name: str, others: Iterable[str]) -> None:
        self._linking.link(name, others)
