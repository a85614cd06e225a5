"""The three acts for workloads in Python, as ``workload.h`` has them for C.

``prepare`` some state, ``ready_then_go()``, then ``check``; the first result of any process stays.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

control = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


def put(name: str, text: str) -> None:
    """Write a file whose content appears at once; an existing one of that name stays."""
    temporary = control / f".{name}.{threading.get_native_id()}"
    temporary.write_text(text)
    try:
        os.link(temporary, control / name)
    except FileExistsError:
        pass
    temporary.unlink()


def wait_for(condition: Callable[[], object]) -> None:
    """Poll until *condition* is true."""
    while not condition():
        time.sleep(0.005)


def ready_then_go() -> None:
    """Say that the state stands, and wait until it has been through whatever comes."""
    put("ready", "1")
    wait_for((control / "go").exists)


@contextmanager
def workload() -> Iterator[Path]:
    """Turn the outcome of the body into the result file."""
    try:
        yield control
    except BaseException:
        put("result", traceback.format_exc())
        raise
    put("result", "ok")
