"""Optimal one-to-one matching of rows with columns, exact in whole numbers."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["assign"]

_SCALE = 1 << 30  # a fit as a whole number: finer than any difference that matters
_ALONE = -1


def assign(fit: Sequence[Sequence[float]]) -> list[int | None]:
    """Match rows with columns: as many pairs as possible, then the largest sum of fits.

    Among equal ways earlier rows are preferred.

    Args:
        fit: [rows][columns] from 0.0 (cannot be paired) to 1.0.

    Returns:
        [rows] the column of each row, or None.
    """
    rows = len(fit)
    if rows and len(fit[0]) == 1:  # the usual turn makes one call
        best = max(range(rows), key=lambda row: fit[row][0])
        return [0 if row == best and fit[row][0] > 0 else None for row in range(rows)]
    # No row ever needs more than its best few columns: the other rows can take no more of them.
    kept: set[int] = set()
    for row in fit:
        best_first = sorted((-value, column) for column, value in enumerate(row) if value > 0)
        kept.update(column for _, column in best_first[:rows])
    columns = sorted(kept)
    if not columns:
        return [None] * rows
    finest = rows * rows + 1  # one step of fit outweighs any preference for early rows
    pair = (rows + 1) * finest * (_SCALE + 1)  # one pair more outweighs any sum of fits
    gain = [
        [
            pair + round(row[column] * _SCALE) * finest + rows - number if row[column] > 0 else 0
            for column in columns
        ]
        + [0] * rows  # where a row stays alone
        for number, row in enumerate(fit)
    ]
    chosen = _largest(gain)
    return [
        columns[place] if place < len(columns) and gain[row][place] else None
        for row, place in enumerate(chosen)
    ]


def _largest(gain: list[list[int]]) -> list[int]:
    """The column of each row in the complete assignment of largest gain (Kuhn 1955, Munkres 1957).

    Rows are added one by one along the best alternating path, in rows x rows x columns steps.

    Args:
        gain: [rows][columns], at least as many columns as rows.
    """
    rows, columns = len(gain), len(gain[0]) if gain else 0
    far = 1 + 2 * sum(map(max, gain))
    row_price, column_price = [0] * rows, [0] * columns
    owner = [_ALONE] * columns
    for start in range(rows):
        loss = [far] * columns  # of the best path that ends in a column
        before = [_ALONE] * columns  # the column before it on that path
        open_columns = list(range(columns))
        visited: list[int] = []
        row, here = start, _ALONE
        while row != _ALONE:
            for column in open_columns:
                short = row_price[row] + column_price[column] - gain[row][column]
                if short < loss[column]:
                    loss[column], before[column] = short, here
            here = min(open_columns, key=loss.__getitem__)
            step = loss[here]
            row_price[start] -= step
            for column in visited:
                row_price[owner[column]] -= step
                column_price[column] += step
            for column in open_columns:
                loss[column] -= step
            open_columns.remove(here)
            visited.append(here)
            row = owner[here]
        while here != _ALONE:
            owner[here] = start if before[here] == _ALONE else owner[before[here]]
            here = before[here]
    return [owner.index(row) for row in range(rows)]
