"""95 % intervals: Wilson for proportions, percentile bootstrap by task for means and ratios.

Episodes of one task are not independent, so both know the task of every observation. The measured
coverage stands in docs/evaluation.md. The code is our own since scipy and statsmodels know neither
interval for observations in groups, and would be the largest dependency of the core.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    *("CONFIDENCE", "Interval", "bootstrap", "bounded_mean", "group", "holm"),
    *("mcnemar", "proportion"),
    "wilson",
]

CONFIDENCE = 0.95
RESAMPLES = 4000
_CHUNK = 2_000_000  # counts of resampled tasks held at once: 16 MB

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its uncertainty.

    Args:
        value: the estimate; None when there is nothing to estimate it from.
        low: lower end; None when no honest interval exists.
        high: upper end.
        n: observations: episodes, calls, or pairs.
        kind: how the interval was made, or why there is none.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    kind: str


def wilson(share: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval (Wilson 1927).

    Args:
        share: successes over n, from 0 to 1.
        n: observations, more than 0; need not be whole (an effective sample size).
        confidence: such as 0.95.

    Returns:
        Lower and upper end, within 0 and 1.

    Raises:
        ValueError: n is not above 0, or the share lies outside 0 to 1.
    """
    if n <= 0 or not 0 <= share <= 1:
        raise ValueError(f"a share of 0 to 1 and n above 0 are needed, not {share!r} and {n!r}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding must neither leave 0 to 1 nor exclude the estimate itself.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def proportion(hits: ArrayLike, sizes: ArrayLike) -> Interval:
    """A proportion over observations that come in groups, one group a task.

    Where every group holds at most one observation this is Wilson's interval. Else it is Wilson's
    with the effective sample size: that of independent observations with the variance that the
    groups show (linearised ratio estimator; Dean and Pagano 2015). Where the groups show none, each
    group counts as one observation.

    Args:
        hits: [groups] successes.
        sizes: [groups] observations.
    """
    x, m = np.asarray(hits, np.float64), np.asarray(sizes, np.float64)
    x, m = x[m > 0], m[m > 0]
    n = float(m.sum())
    if not n:
        return Interval(None, None, None, 0, "no data")
    share = float(x.sum() / n)
    if m.max() <= 1:
        return Interval(share, *wilson(share, n), int(n), "Wilson")
    groups = len(m)
    effective = float(groups)
    if groups > 1:
        variance = float(((x - share * m) ** 2).sum()) / n**2 * groups / (groups - 1)
        if variance > 0:
            effective = min(n, share * (1 - share) / variance)
    kind = f"Wilson by task, effective n {effective:.0f}"
    return Interval(share, *wilson(share, effective), int(n), kind)


def bounded_mean(sums: ArrayLike, sizes: ArrayLike) -> Interval:
    """A mean of values from 0 to 1 that come in groups, one group a task; for few groups too.

    Wilson's interval with the number of independent truth values that would have the variance which
    the groups show, at least one a group: no spread is wider than that of 0 and 1. The measured
    coverage stands in docs/evaluation.md.

    Args:
        sums: [groups] sum of the values of each task.
        sizes: [groups] number of values of each task.
    """
    x, m = np.asarray(sums, np.float64), np.asarray(sizes, np.float64)
    x, m = x[m > 0], m[m > 0]
    n = float(m.sum())
    if not n:
        return Interval(None, None, None, 0, "no data")
    mean = min(1.0, max(0.0, float(x.sum() / n)))
    groups = len(m)
    effective = float(groups)
    if groups > 1:
        variance = float(((x - mean * m) ** 2).sum()) / n**2 * groups / (groups - 1)
        if variance > 1e-30:
            effective = max(effective, mean * (1 - mean) / variance)
    kind = f"Wilson by task, effective n {effective:.0f}"
    return Interval(mean, *wilson(mean, effective), int(n), kind)


def bootstrap(
    sums: ArrayLike, sizes: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """A mean or ratio with its percentile bootstrap interval; whole groups are resampled.

    Args:
        sums: [groups] sum of the values of each task.
        sizes: [groups] number of values of each task, or the ratio's denominators.
        seed: fixes the resampling.
        resamples: how many.
    """
    x, m = np.asarray(sums, np.float64), np.asarray(sizes, np.float64)
    total = float(m.sum())
    if not total:
        return Interval(None, None, None, 0, "no data")
    value = float(x.sum() / total)
    groups = len(m)
    if groups < 2:
        return Interval(value, None, None, int(total), "none: one task")
    if np.allclose(x * total, x.sum() * m, rtol=1e-12, atol=0.0):
        return Interval(value, None, None, int(total), "none: all tasks equal")
    drawn = _resampled(np.stack([x, m]), seed, resamples)
    ratios = drawn[0][drawn[1] > 0] / drawn[1][drawn[1] > 0]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Interval(value, float(low), float(high), int(total), "bootstrap by task")


def _resampled(table: Floats, seed: int, resamples: int) -> Floats:
    """Sums over resampled groups: [rows, groups] to [rows, resamples]."""
    groups = table.shape[1]
    rng = np.random.default_rng(seed)
    height = max(1, min(resamples, _CHUNK // groups))
    parts = []
    for begin in range(0, resamples, height):
        rows = min(height, resamples - begin)
        drawn = rng.integers(groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
        parts.append(table @ counts.T.astype(np.float64))  # (row, resample)
    return np.concatenate(parts, axis=1)


def mcnemar(only_before: int, only_after: int) -> float:
    """Exact two-sided p-value of McNemar's test (McNemar 1947): are both changes equally likely?

    Of values other than 0 and 1 it is the sign test: how many fell, and how many rose.

    Args:
        only_before: tasks right before and wrong after.
        only_after: tasks wrong before and right after.
    """
    n = only_before + only_after
    term = tail = 1
    for k in range(min(only_before, only_after)):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, float(Fraction(2 * tail, 2**n)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests, corrected for their number (Holm 1979), in the same order.

    Args:
        p_values: [tests]
    """
    corrected, least = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = least
    return corrected


def group(keys: Sequence[Hashable], *columns: ArrayLike) -> list[Floats]:
    """Sum columns by key.

    Args:
        keys: [observations] such as task ids.
        columns: [observations] each.

    Returns:
        One [groups] array a column, groups in order of first appearance.
    """
    numbers: dict[Hashable, int] = {}
    places = (numbers.setdefault(key, len(numbers)) for key in keys)
    index = np.fromiter(places, np.intp, len(keys))
    return [
        np.bincount(index, np.asarray(column, np.float64), len(numbers)).astype(np.float64)
        for column in columns
    ]
