"""A progress display that begins with the first news.

A bar has a thread, and a process with threads must not fork. The operations shown here fork first
and report afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from migrate.cli.progress import Progress


@contextlib.contextmanager
def late_progress(title: str, *, quiet: bool = False) -> Iterator[Progress]:
    """As progress_display, but nothing is shown or started before the first call."""
    with contextlib.ExitStack() as stack:
        display: list[Progress] = []

        def progress(stage: str, done: int, total: int) -> None:
            if not display:
                from migrate.cli.progress import progress_display

                display.append(stack.enter_context(progress_display(title, quiet=quiet)))
            display[0](stage, done, total)

        yield progress
