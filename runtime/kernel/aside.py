"""A thread that leaves what threads share: the descriptor table, or root and working directory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from runtime.kernel.clone import CLONE_FILES, CLONE_FS
from runtime.kernel.namespaces import unshare

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
