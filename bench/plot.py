"""Bars with their spread, as SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.figures import Spread

_WIDTH, _LABELS, _VALUES, _ROW, _TOP = 720, 220, 90, 28, 44
_OURS, _THEIRS = "#1f6f54", "#9aa5b1"


def bars(title: str, rows: Sequence[tuple[str, Spread]], ours: str) -> str:
    """Return a drawing with a bar for each median, a line from the least to the most, and one bar set apart as ours."""
    scale = (_WIDTH - _LABELS - _VALUES) / max(spread.most for _, spread in rows)
    height = _TOP + _ROW * len(rows) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"',
        ' font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (label, spread) in enumerate(rows):
        top = _TOP + _ROW * number
        middle = top + _ROW / 2 - 4
        width = scale * spread.median
        least, most = (_LABELS + scale * value for value in (spread.least, spread.most))
        colour = _OURS if label == ours else _THEIRS
        parts += [
            f'<text x="{_LABELS - 8}" y="{middle + 5:g}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{_LABELS}" y="{top:g}" width="{width:.1f}" height="{_ROW - 8}" fill="{colour}"/>',
            f'<line x1="{least:.1f}" y1="{middle:g}" x2="{most:.1f}" y2="{middle:g}" stroke="#000000"/>',
            f'<text x="{most + 6:.1f}" y="{middle + 5:g}">{spread.median:,.4g}</text>',
        ]
    return "\n".join((*parts, "</svg>", ""))
