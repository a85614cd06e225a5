"""A migration as a picture: when memory was sent, and where the downtime went. Plain SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from migrate.report import MigrateReport

_WIDTH, _LEFT, _RIGHT, _ROW = 720, 90, 210, 22
_BAR = 14
_ROUND, _SCAN = "#1f5fa8", "#7fb0de"
_PHASES = (
    ("freeze", "#b3471d"),
    ("dump and transfer", "#d98b2b"),
    ("restore", "#2d7a3e"),
    ("thaw", "#7a4fa3"),
)
_TICKS = 5


class _Bar(NamedTuple):
    """A row: label, what it says behind the bar, and parts as (start, length, colour), in ns."""

    label: str
    text: str
    parts: list[tuple[int, int, str]]


def draw(report: MigrateReport) -> str:
    """The picture: rounds and downtime on one axis, and below it the downtime alone.

    Args:
        report: Of a migration that has succeeded.
    """
    rounds = [
        _Bar(
            f"round {one.number}",
            f"{_bytes(one.memory_bytes)} as {_bytes(one.sent_bytes)}",
            [
                (one.began_ns, one.scan_ns, _SCAN),
                (one.began_ns + one.scan_ns, one.elapsed_ns - one.scan_ns, _ROUND),
            ],
        )
        for one in report.rounds
    ]
    frozen_at = max((one.began_ns + one.elapsed_ns for one in report.rounds), default=0)
    lengths = (report.freeze_ns, report.transfer_ns, report.restore_ns, report.thaw_ns)
    parts, at = [], frozen_at
    for (_, colour), length in zip(_PHASES, lengths, strict=True):
        parts.append((at, length, colour))
        at += length
    frozen = _Bar("downtime", f"{report.downtime_ns / 1e6:.0f} ms", parts)
    rest = []
    if report.complete_ns:
        text = f"{_bytes(report.later_bytes)} as {_bytes(report.later_sent_bytes)}"
        rest.append(_Bar("later", text, [(at, report.complete_ns, _ROUND)]))
    split = [
        _Bar(name, f"{length / 1e6:.1f} ms", [(start - frozen_at, length, colour)])
        for (name, colour), (start, length, _) in zip(_PHASES, parts, strict=True)
    ]
    whole, top = _chart([*rounds, frozen, *rest], 40, at + report.complete_ns)
    alone, bottom = _chart(split, top + 30, max(report.downtime_ns, 1))
    ended = f"; rounds ended: {report.rounds_ended}" if report.rounds_ended else ""
    title = f"{report.container_id} to {report.destination}: {report.mode}{ended}"
    width = _LEFT + _WIDTH + _RIGHT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom + 10}"'
            ' font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
            *whole,
            *alone,
            "</svg>\n",
        ]
    )


def _chart(bars: list[_Bar], top: int, total_ns: int) -> tuple[list[str], int]:
    """Rows over a time axis; returns the elements and where they end."""
    total_ns = max(total_ns, 1)
    bottom = top + len(bars) * _ROW
    parts = []
    for tick in range(_TICKS + 1):
        x = _LEFT + _WIDTH * tick / _TICKS
        parts.append(
            f'<path d="M{x:.1f} {top}v{bottom - top}" stroke="#ddd"/>'
            f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">'
            f"{total_ns * tick / _TICKS / 1e6:.0f} ms</text>"
        )
    for row, bar in enumerate(bars):
        y = top + row * _ROW
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y + _BAR}" text-anchor="end">{escape(bar.label)}</text>'
        )
        end = _LEFT
        for start, length, colour in bar.parts:
            x, width = _LEFT + _WIDTH * start / total_ns, _WIDTH * length / total_ns
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 3}" width="{max(width, 0.5):.1f}" height="{_BAR}"'
                f' fill="{colour}"/>'
            )
            end = max(end, int(x + width))
        parts.append(f'<text x="{end + 6}" y="{y + _BAR}">{escape(bar.text)}</text>')
    return parts, bottom + 20


def _bytes(count: int) -> str:
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
