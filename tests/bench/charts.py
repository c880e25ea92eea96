"""Bar charts as SVG: a title, a line a system, values at the ends of the bars.

Owns the drawing. Knows nothing of the benchmark; written here because a plotting library
would be larger than all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, LABEL, VALUE = 760, 150, 90
BAR, GAP, HEAD = 22, 8, 44
INK, OURS, THEIRS, GRID = "#1f2328", "#0969da", "#8c959f", "#d0d7de"


def bars(title: str, unit: str, values: Sequence[tuple[str, float]], first: str, *, logarithmic: bool = False) -> str:
    """A horizontal bar for each (name, value); the one named `first` stands out. Values are positive."""
    room = WIDTH - LABEL - VALUE
    top = max(value for _, value in values)
    low = min(value for _, value in values) / 2 if logarithmic else 0.0
    height = HEAD + len(values) * (BAR + GAP) + GAP
    scale = "logarithmic" if logarithmic else "linear"
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    look = f'font-family="system-ui, sans-serif" font-size="13" role="img" aria-label="{escape(title)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {look}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="20" font-size="15" font-weight="600" fill="{INK}">{escape(title)}</text>',
        f'<text x="10" y="36" font-size="11" fill="{INK}">{escape(unit)}, {scale} scale</text>',
        f'<line x1="{LABEL}" y1="{HEAD}" x2="{LABEL}" y2="{height - GAP}" stroke="{GRID}"/>',
    ]
    for at, (name, value) in enumerate(values):
        y = HEAD + GAP + at * (BAR + GAP)
        share = math.log(value / low) / math.log(top / low) if logarithmic else value / top
        long = max(1, round(room * share))
        middle = y + BAR * 0.7
        parts += [
            f'<text x="{LABEL - 8}" y="{middle:.0f}" text-anchor="end" fill="{INK}">{escape(name)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{long}" height="{BAR}" fill="{OURS if name == first else THEIRS}"/>',
            f'<text x="{LABEL + long + 6}" y="{middle:.0f}" fill="{INK}">{_shown(value)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 10 else f"{value:,.2f}"
