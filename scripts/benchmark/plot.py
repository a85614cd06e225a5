"""Small line charts as SVG, one below the other, without a library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _TOP = 720, 200, 64, 40
_COLOURS = ("#1f5fa8", "#b3471d", "#2d7a3e")


class Series(NamedTuple):
    """A name with its unit, and a value for each step."""

    name: str
    values: Sequence[float]


def draw(title: str, steps: str, series: Sequence[Series]) -> str:
    """The charts of all series over the same steps.

    Args:
        title: Above all.
        steps: What the steps are, below.
        series: At least one value each.
    """
    height = _TOP + len(series) * (_HEIGHT + 30) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + _LEFT + 20}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for number, one in enumerate(series):
        top = _TOP + number * (_HEIGHT + 30)
        parts += _chart(one, top, _COLOURS[number % len(_COLOURS)])
    parts.append(f'<text x="{_LEFT + _WIDTH // 2}" y="{height - 6}">{escape(steps)}</text></svg>')
    return "\n".join(parts) + "\n"


def _chart(series: Series, top: int, colour: str) -> list[str]:
    step = _round_step(max(series.values) / 4)
    ceiling = step * max(1, math.ceil(max(series.values) / step))
    bottom = top + _HEIGHT
    across = _WIDTH / max(1, len(series.values) - 1)
    parts = [f'<text x="{_LEFT + 6}" y="{top + 12}" fill="{colour}">{escape(series.name)}</text>']
    for tick in range(round(ceiling / step) + 1):
        y = bottom - tick * step / ceiling * _HEIGHT
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}h{_WIDTH}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick * step:g}</text>'
        )
    points = " ".join(
        f"{_LEFT + index * across:.1f},{bottom - value / ceiling * _HEIGHT:.1f}"
        for index, value in enumerate(series.values)
    )
    parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return parts


def _round_step(value: float) -> float:
    """The next of 1, 2, 5, 10, 20 and so on."""
    if value <= 0:
        return 1.0
    unit: float = 10.0 ** math.floor(math.log10(value))
    return next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= value)
