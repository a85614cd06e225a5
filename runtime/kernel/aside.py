"""A thread that leaves what threads share: the descriptor table, or root and working directory."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from runtime.kernel.clone import CLONE_FILES, CLONE_FS, CLONE_NEWNS
from runtime.kernel.namespaces import setns, unshare

P = ParamSpec("P")
T = TypeVar("T")


def with_own_table(work: Callable[[], T]) -> T:
    """Run *work* in a thread with a copy of our descriptor table, which vanishes with it.

    There *work* may put any file at any number. Nothing of ours is touched, and nothing that *work*
    opens is left open.

    Source: man 2 unshare, CLONE_FILES.
    """
    return _aside(CLONE_FILES, work)


def with_own_directories(work: Callable[[], T]) -> T:
    """Run *work* in a thread whose root, working directory and umask are its own.

    Source: man 2 unshare, CLONE_FS.
    """
    return _aside(CLONE_FS, work)


def _aside(flags: int, work: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            unshare(flags)
            results.append(work())
        except BaseException as exc:  # whatever it is, the caller gets it
            failures.append(exc)

    thread = threading.Thread(target=run, name="aside")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


class MountHand:
    """A thread in another mount namespace, which does there what it is asked to.

    Its descriptors are ours, but paths mean what they mean there, /proc among them.

    Args:
        path: Leads to the namespace, such as /proc/PID/ns/mnt.

    Raises:
        PermissionError: No CAP_SYS_ADMIN over it.
    """

    def __init__(self, path: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="mounts", daemon=True)
        self._thread.start()
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.do(_enter_mounts, fd)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *work* there; what it returns or raises is what we return or raise."""

        def run() -> None:
            try:
                self._done.put((work(*args, **kwargs), None))
            except BaseException as exc:  # whatever it is, the caller gets it
                self._done.put((None, exc))

        self._work.put(run)
        result, failure = self._done.get()
        if failure is not None:
            raise failure
        answer: T = result
        return answer

    def close(self) -> None:
        """End the thread."""
        self._work.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()


def _enter_mounts(fd: int) -> None:
    unshare(CLONE_FS)
    setns(fd, CLONE_NEWNS)
