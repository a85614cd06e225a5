"""Keeping a transfer below a rate."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from migrate.errors import MigrateError
from migrate.transport import Buffer

BURST_S = 0.1  # how much of a second's allowance may go at once
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?(?:/s)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def parse_rate(text: str) -> float:
    """Bytes per second from ``500k``, ``20M``, ``1.5G`` or a plain number of bytes.

    Raises:
        MigrateError: It is none, or zero; reason ``bad-rate``.
    """
    match = _RATE.fullmatch(text.strip())
    rate = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if rate <= 0:
        raise MigrateError(f"rate {text!r} is not like 500k, 20M or 1G", reason="bad-rate")
    return rate


class RateLimit:
    """A write function that never passes on more than a number of bytes per second."""

    def __init__(self, write: Callable[[Buffer], object], bytes_per_s: float) -> None:
        self._write = write
        self._bytes_per_s = bytes_per_s
        self._step = max(1, int(bytes_per_s * BURST_S))
        self._due = time.monotonic()

    def write(self, data: Buffer, /) -> int:
        """Pass on all of *data*, sleeping as needed."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), self._step):
            part = view[start : start + self._step]
            now = time.monotonic()
            # Time in which nothing was sent is not saved up.
            self._due = max(self._due, now - BURST_S)
            if self._due > now:
                time.sleep(self._due - now)
            self._due += len(part) / self._bytes_per_s
            self._write(part)
        return len(view)
