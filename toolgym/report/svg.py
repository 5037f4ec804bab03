"""Pieces of drawings as SVG text.

They are written here since a page has to stand alone, and be the same bytes for the same figures:
matplotlib writes ids and dates into its SVG, and is larger than all of the core.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

__all__ = ["FAINT", "INK", "ceiling", "line", "path", "svg", "text"]

FAINT, INK = "#d5dae3", "#4a5160"
"""Colours of grids and of labels."""
_FONT = 'font-family="system-ui, sans-serif" font-size="13"'


def ceiling(value: float) -> float:
    """The next round number, so that an axis has short labels."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * n for n in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if unit * n >= value)


def line(x1: float, y1: float, x2: float, y2: float, colour: str = FAINT, width: float = 1) -> str:
    """A straight line; all lengths are in pixels."""
    thick = f' stroke-width="{width:g}"' if width != 1 else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{thick}/>'
    )


def path(points: Sequence[tuple[float, float]], colour: str, width: float = 2) -> str:
    """A line through points, given as (x, y) in pixels."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'


def text(x: float, y: float, words: str, anchor: str = "middle", colour: str = INK) -> str:
    """Words at a place; the anchor is ``start``, ``middle`` or ``end``."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{html.escape(words)}</text>"
    )


def svg(parts: Sequence[str], width: float, height: float) -> str:
    """The whole element around its parts, in pixels."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" {_FONT}>\n' + "\n".join(parts) + "\n</svg>"
    )
