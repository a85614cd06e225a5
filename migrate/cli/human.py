"""Counts, rates and times as people read them."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def human_bytes(count: float) -> str:
    """A count of bytes: ``830 B``, ``1.5 GiB``, ``230 MiB``."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 or count >= 100 else _short(count, unit)


def _short(count: float, unit: int) -> str:
    return f"{count:.1f} {_UNITS[unit]}"


def human_rate(count: float, elapsed_ns: int) -> str:
    """Bytes in a time: ``230 MiB/s``."""
    return f"{human_bytes(count * 1e9 / max(elapsed_ns, 1))}/s"


def human_time(elapsed_ns: float) -> str:
    """A time: ``3.8 ms``, ``38 ms``, ``2.1 s``."""
    milliseconds = elapsed_ns / 1e6
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"
