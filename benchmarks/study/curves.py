"""Drawings of the miniature's study: accuracy by round, and the reward while GRPO trains."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from toolgym.evaluation.document import FAINT, line, path, svg, text
from toolgym.evaluation.intervals import wilson

__all__ = ["accuracy_curves", "reward_curves"]

Counts = Sequence[tuple[int, int]]
"""Right answers and questions: before, and after each round."""

_COLUMNS: Final = 3
_CELL, _HIGH = 290, 190
_LEFT, _TOP, _ROW = 52, 40, 270
_STRONG, _WEAK = "#2563a8", "#9db7d6"
_COLOURS: Final = ("#2563a8", "#c2540a", "#0f766e", "#7c3aed", "#6b7280")


def accuracy_curves(arms: Mapping[str, Sequence[Counts]]) -> str:
    """One small chart an arm: accuracy before and after each round, 0 to 100 %.

    Args:
        arms: by title the seeds' counts. Each seed is a thin line; their pool is the thick one,
            with 95 % Wilson intervals.
    """
    parts: list[str] = []
    for place, (title, seeds) in enumerate(arms.items()):
        left = _LEFT + _CELL * (place % _COLUMNS)
        parts += _panel(title, seeds, left, _TOP + _ROW * (place // _COLUMNS))
    rows = -(-len(arms) // _COLUMNS)
    return svg(parts, _LEFT + _CELL * _COLUMNS, _ROW * rows + 10)


def reward_curves(seeds: Mapping[str, Sequence[float]]) -> str:
    """Mean reward of the episodes of each training step, one line a seed.

    Args:
        seeds: by name the rewards of the steps, 0 to 1.
    """
    width, most = 3 * _CELL - 120, max((len(values) for values in seeds.values()), default=1)

    def x(step: int) -> float:
        return _LEFT + width * step / max(1, most - 1)

    parts = _grid(_LEFT, width, 20, lambda share: f"{share / 100:g}")
    for step in sorted({0, most // 2, most - 1}):
        parts.append(text(x(step), 20 + _HIGH + 18, str(step + 1)))
    parts.append(text(_LEFT + width / 2, 20 + _HIGH + 38, "training step"))
    for place, (name, values) in enumerate(seeds.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        parts.append(path([(x(n), _y(100 * v, 20)) for n, v in enumerate(values)], colour))
        parts.append(text(_LEFT + width + 12, 34 + 18 * place, name, "start", colour))
    return svg(parts, _LEFT + 3 * _CELL, 20 + _HIGH + 50)


def _panel(title: str, seeds: Sequence[Counts], left: float, top: float) -> list[str]:
    width, rounds = _CELL - 70, max(len(counts) for counts in seeds)

    def x(number: int) -> float:
        return left + 24 + (width - 48) * number / max(1, rounds - 1)

    parts = [text(left + width / 2, top - 14, title), *_grid(left, width, top)]
    for number in range(rounds):
        label = "before" if number == 0 else f"round {number}"
        parts.append(text(x(number), top + _HIGH + 18, label))
    for counts in seeds:
        shares = [(x(n), _y(100 * right / of, top)) for n, (right, of) in enumerate(counts)]
        parts.append(path(shares, _WEAK, 1))
    pooled = [
        (sum(counts[n][0] for counts in seeds), sum(counts[n][1] for counts in seeds))
        for n in range(rounds)
    ]
    parts.append(path([(x(n), _y(100 * r / of, top)) for n, (r, of) in enumerate(pooled)], _STRONG))
    for number, (right, of) in enumerate(pooled):
        low, high = wilson(right / of, of)
        at, share = x(number), 100 * right / of
        parts.append(line(at, _y(100 * low, top), at, _y(100 * high, top), _STRONG, 2))
        label = f"{title}: {share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        parts.append(
            f'<circle cx="{at:.1f}" cy="{_y(share, top):.1f}" r="4" fill="{_STRONG}">'
            f"<title>{html.escape(label)}</title></circle>"
        )
        parts.append(text(at + 8, _y(share, top) + 16, f"{share:.0f}", "start", _STRONG))
    return parts


def _grid(
    left: float, width: float, top: float, label: Callable[[int], str] = "{} %".format
) -> list[str]:
    parts = []
    for share in (0, 25, 50, 75, 100):
        parts.append(line(left, _y(share, top), left + width, _y(share, top), FAINT))
        parts.append(text(left - 6, _y(share, top) + 4, label(share), "end"))
    return parts


def _y(share: float, top: float) -> float:
    """Where a percentage stands, in pixels."""
    return top + _HIGH * (1 - share / 100)
