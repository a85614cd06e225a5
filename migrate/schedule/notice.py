"""Asking whether the host is about to end, as cloud providers tell of spot instances."""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Callable

from migrate.schedule.plan import Notice

log = logging.getLogger(__name__)

_ANSWERS_WITHIN_S = 30.0


def watch(notice: Notice, act: Callable[[], None], over: threading.Event) -> None:
    """Ask until the answer is yes, then act, once.

    Args:
        notice: Whom to ask, and how often.
        act: What to do.
        over: Set when nobody wants to know any more.
    """
    while not over.wait(notice.every_s):
        try:
            done = subprocess.run(
                notice.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_ANSWERS_WITHIN_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            log.warning("notice: %s", exc)
            continue
        if done.returncode == 0:
            log.warning("this host is about to end: saving everything")
            act()
            return
