"""Which tasks of a container share what clone(2) can share, numbered for the image."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from runtime.engine.context import DumpContext
from runtime.engine.live_process import LiveProcess
from runtime.kernel import kcmp, sysvipc

FILES, FS, MM, SIGHAND, UNDO, IO = (
    kcmp.KCMP_FILES,
    kcmp.KCMP_FS,
    kcmp.KCMP_VM,
    kcmp.KCMP_SIGHAND,
    kcmp.KCMP_SYSVSEM,
    kcmp.KCMP_IO,
)
_PER_THREAD = (FILES, FS)
_MAY_BE_MISSING = (UNDO, IO)


class Sharing:
    """What is shared by whom.

    Args:
        context: For the numbers.
        living: The processes; kcmp(2) tells about tasks that are not zombies.
    """

    def __init__(self, context: DumpContext, living: Sequence[LiveProcess]) -> None:
        self._context = context
        self._ids: dict[tuple[int, int], int] = {}
        self._first: dict[int, int] = {}
        self._leaders = {process.pid: process.view for process in living}
        apart = [(p.view, tid) for p in living for tid in p.tids if tid != p.view]
        for kind in (FILES, FS, MM, SIGHAND, UNDO, IO):
            tasks = [process.view for process in living]
            if kind in _PER_THREAD:
                tasks += [tid for leader, tid in apart if kcmp.kcmp(leader, tid, kind)]
            self._number(kind, tasks)

    def _number(self, kind: int, tasks: list[int]) -> None:
        if kind in _MAY_BE_MISSING:
            sysvipc.forget_own_undo()
            tasks = [tid for tid in tasks if not _is_missing(tid, kind)]
        order = {tid: index for index, tid in enumerate(tasks)}
        for group in kcmp.group_same(tasks, lambda a, b: kcmp.kcmp(a, b, kind)):
            number = self._context.new_id()
            self._first[number] = min(group, key=order.__getitem__)
            for tid in group:
                self._ids[kind, tid] = number

    def number(self, kind: int, tid: int) -> int:
        """The number of what a task has of a *kind*; 0 when it has none, or its leader's."""
        return self._ids.get((kind, tid), 0)

    def is_first(self, kind: int, tid: int) -> bool:
        """Whether a task is the first of those that share its number."""
        number = self.number(kind, tid)
        return bool(number) and self._first[number] == tid

    def first(self, kind: int) -> list[int]:
        """The first task of each group, in their order."""
        return [tid for (of, tid) in self._ids if of == kind and self.is_first(kind, tid)]


def _is_missing(tid: int, kind: int) -> bool:
    """Whether a task has no such thing at all; then it is equal to us, who have none either."""
    return kcmp.kcmp(threading.get_native_id(), tid, kind) == 0
