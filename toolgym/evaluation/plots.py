"""Drawings of figures: as SVG for pages that stand alone, as matplotlib's for notebooks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.evaluation.document import FAINT, INK, ceiling, line, svg, text
from toolgym.evaluation.intervals import Interval

__all__ = ["dots", "dots_svg", "grid", "grid_svg", "interval_figure", "new_figure"]

Means = Sequence[tuple[str, Interval, float | None, float | None]]
"""A name, its interval, and two more values that are drawn beside it."""
Square = Sequence[Sequence[float | None]]

_BLUE, _RED = "#2f6fb2", "#c0504d"
_ROW, _CELL, _LETTER = 34, 56, 7.2  # pixels
_LONGEST = 22  # characters of a name


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _margin(names: Sequence[str]) -> float:
    return 16 + _LETTER * max((len(_short(name)) for name in names), default=0)


def _bounds(means: Means) -> tuple[float, float]:
    values = [
        value
        for _, row, *others in means
        for value in (row.value, row.low, row.high, *others)
        if value is not None
    ]
    low, high = min([0.0, *values]), max([0.0, *values])
    return -ceiling(-low) if low < 0 else 0.0, ceiling(high) if high > 0 or low == 0 else 0.0


def dots_svg(means: Means) -> str:
    """Means with their intervals, a row each; right ones as filled dots, wrong ones hollow."""
    left, wide = _margin([name for name, *_ in means]), 430.0
    low, high = _bounds(means)

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * wide

    bottom = 10 + _ROW * len(means)
    parts = []
    for tick in range(5):
        value = low + (high - low) * tick / 4
        parts += [line(place(value), 6, place(value), bottom)]
        parts += [text(place(value), bottom + 17, f"{value:.2g}")]
    for row, (name, interval, right, wrong) in enumerate(means):
        y = 10 + _ROW * row + 12
        parts.append(text(left - 10, y + 5, _short(name), "end"))
        if interval.low is not None and interval.high is not None:
            parts.append(line(place(interval.low), y, place(interval.high), y, INK, 2))
        if interval.value is not None:
            x = place(interval.value)
            parts.append(line(x, y - 6, x, y + 6, INK, 3))
        for other, fill in ((right, _BLUE), (wrong, "#fff")):
            if other is not None:
                parts.append(
                    f'<circle cx="{place(other):.1f}" cy="{y + 12}" r="4" fill="{fill}" '
                    f'stroke="{_BLUE}" stroke-width="2"/>'
                )
    return svg(parts, left + wide + 20, bottom + 26)


def grid_svg(names: Sequence[str], values: Square, *, signed: bool) -> str:
    """A square of numbers, the darker the larger.

    Args:
        names: [n] of rows and columns.
        values: [n][n] from 0 to 1, or from -1 to 1; None: a dash.
        signed: correlations, whose negative values are red; else shares, as percent.
    """
    left, top = _margin(names), 10.0
    parts = []
    for row, name in enumerate(names):
        y = top + _CELL * row * 0.6
        parts.append(text(left - 10, y + 22, _short(name), "end"))
        for column, value in enumerate(values[row]):
            x = left + _CELL * column
            colour = _shade(value, signed)
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{_CELL - 2}" height="{_CELL * 0.6 - 2:.1f}" '
                f'fill="{colour}"/>'
            )
            dark = value is not None and abs(value) > (0.55 if signed else 0.35)
            said = _said(value, signed) if row != column else "·"
            ink = "#fff" if dark else INK
            parts.append(text(x + _CELL / 2 - 1, y + 21, said, colour=ink))
    bottom = top + _CELL * 0.6 * len(names)
    for column, name in enumerate(names):
        x = left + _CELL * column + _CELL / 2
        turned = text(0, 0, _short(name), "end")
        parts.append(
            f'<g transform="translate({x:.1f},{bottom + 14:.1f}) rotate(-40)">{turned}</g>'
        )
    below = 24 + 0.65 * _margin(names)
    return svg(parts, left + _CELL * len(names) + 10, bottom + below)


def _said(value: float | None, signed: bool) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if signed else f"{100 * value:.0f}"


def _shade(value: float | None, signed: bool) -> str:
    if value is None:
        return "#f4f6f9"
    strength = min(1.0, abs(value) * (1.0 if signed else 1.6))
    base = _RED if value < 0 or not signed else _BLUE
    channels = (int(base[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (each - 255) * strength):02x}" for each in channels)


def dots(axes: Any, means: Means, label: str) -> None:
    """As `dots_svg`, on axes of matplotlib."""
    for row, (_, interval, right, wrong) in enumerate(means):
        if interval.low is not None and interval.high is not None:
            axes.plot([interval.low, interval.high], [row, row], color=INK, linewidth=2)
        if interval.value is not None:
            axes.plot([interval.value], [row], "|", color=INK, markersize=12, markeredgewidth=2)
        for value, fill in ((right, _BLUE), (wrong, "white")):
            if value is not None:
                axes.plot(
                    [value], [row + 0.25], "o", color=_BLUE, markerfacecolor=fill, markersize=5
                )
    axes.set_yticks(range(len(means)), [name for name, *_ in means])
    axes.set_ylim(len(means) - 0.4, -0.6)
    axes.set_xlim(*(end + pad for end, pad in zip(_bounds(means), (-0.03, 0.03), strict=True)))
    axes.set_xlabel(label)
    axes.grid(axis="x", color=FAINT)


def grid(axes: Any, names: Sequence[str], values: Square, label: str, *, signed: bool) -> None:
    """As `grid_svg`, on axes of matplotlib."""
    for row, line_of in enumerate(values):
        for column, value in enumerate(line_of):
            shade = _shade(value, signed)
            axes.fill_between(
                [column - 0.5, column + 0.5], row - 0.5, row + 0.5, color=shade, linewidth=0
            )
            if row != column:
                dark = value is not None and abs(value) > (0.55 if signed else 0.35)
                axes.text(
                    column,
                    row,
                    _said(value, signed),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else INK,
                )
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_title(label, fontsize=10)


def new_figure(width: float, height: float) -> Any:
    """A `matplotlib.figure.Figure` that shows itself in a notebook; pyplot is left alone.

    Args:
        width: in inches.
        height: in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = require_extra("matplotlib.figure", "plot").Figure(
        (width, height), layout="constrained"
    )
    figure._repr_png_ = partial(_png, figure)
    return figure


def _png(figure: Any) -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=90)
    return drawn.getvalue()


def interval_figure(rows: Sequence[tuple[str, Interval]], label: str) -> Any:
    """Estimates with their intervals as a `matplotlib.figure.Figure`.

    Args:
        rows: name and interval, from top to bottom; those without a value are left out.
        label: of the axis.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(6.4, 0.9 + 0.34 * len(rows))
    shown = [(name, row, None, None) for name, row in rows if row.value is not None]
    dots(figure.subplots(), shown, label)
    return figure
