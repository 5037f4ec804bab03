"""Rank statistics: Spearman's and Kendall's correlations, and the area under the ROC curve.

The code is our own since numpy is all that the core requires; the tests compare every figure with
scipy's. All take O(n log n) time and O(n) memory.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolgym.evaluation.intervals import CONFIDENCE, Interval

__all__ = [
    *("area", "area_by_group", "average_ranks", "inversions", "kendall", "levels", "pearson"),
    "spearman",
]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
_DIGITS = 10  # of the largest value: sums of floats that should be equal are


def levels(values: ArrayLike) -> Whole:
    """Values as the numbers of their levels: 0 for the least, equal numbers for equal values.

    Two values that differ by less than 1e-10 of the largest one are equal: a reward of 0.1 ten
    times is 1.

    Args:
        values: [n] finite.
    """
    given = np.asarray(values, np.float64)
    scale = float(np.abs(given).max(initial=0.0))
    rounded = np.round(given / scale, _DIGITS) if scale else given
    return np.unique(rounded, return_inverse=True)[1].astype(np.int64).reshape(-1)


def average_ranks(values: ArrayLike) -> Floats:
    """Ranks from 1 to n; equal values share the mean of theirs.

    Args:
        values: [n]
    """
    _, place, counts = np.unique(
        np.asarray(values, np.float64), return_inverse=True, return_counts=True
    )
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place.reshape(-1)], np.float64)


def pearson(x: ArrayLike, y: ArrayLike) -> float | None:
    """Pearson's correlation; None where one of them does not vary.

    Args:
        x: [n]
        y: [n]
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(a) < 2:
        return None
    a, b = a - a.mean(), b - b.mean()
    sizes = float(a @ a), float(b @ b)
    if min(sizes) <= 1e-12 * len(a):  # ranks that vary differ by at least a half
        return None
    return max(-1.0, min(1.0, float(a @ b) / float(np.sqrt(sizes[0]) * np.sqrt(sizes[1]))))


def spearman(x: ArrayLike, y: ArrayLike) -> float | None:
    """Spearman's rank correlation (Spearman 1904), with average ranks for ties.

    Args:
        x: [n]
        y: [n]

    Returns:
        From -1 to 1; None where one of them does not vary.
    """
    return pearson(average_ranks(x), average_ranks(y))


def inversions(values: Whole) -> int:
    """Pairs of places i < j with values[i] > values[j].

    Each such pair is counted at the highest bit in which the two differ: there they share all
    higher bits, and the first has a 1 where the second has a 0.

    Args:
        values: [n] at least 0.
    """
    total = 0
    for bit in range(int(values.max(initial=0)).bit_length()):
        node = values >> (bit + 1)
        order = np.argsort(node, kind="stable")
        node, ones = node[order], (values[order] >> bit) & 1
        before = np.cumsum(ones) - ones
        begins = np.flatnonzero(np.r_[True, node[1:] != node[:-1]])
        sizes = np.diff(np.r_[begins, len(node)])
        within = before - np.repeat(before[begins], sizes)
        total += int(within[ones == 0].sum())
    return total


def kendall(x: ArrayLike, y: ArrayLike) -> float | None:
    """Kendall's tau-b (Kendall 1945), counted as Knight (1966) does.

    Args:
        x: [n]
        y: [n]

    Returns:
        From -1 to 1; None where one of them does not vary.
    """
    a, b = (np.unique(np.asarray(v, np.float64), return_inverse=True)[1] for v in (x, y))
    a, b = a.reshape(-1).astype(np.int64), b.reshape(-1).astype(np.int64)
    pairs = _pairs(np.array([len(a)]))
    tied = [_pairs(np.bincount(v)) if len(v) else 0 for v in (a, b)]
    if pairs in tied or not pairs:
        return None
    both = _pairs(np.unique(a * (int(b.max()) + 1) + b, return_counts=True)[1])
    against = inversions(b[np.lexsort((b, a))])
    balance = pairs - sum(tied) + both - 2 * against
    # Two roots: the product of two counts of pairs may be beyond 64 bits.
    free = [np.sqrt(float(pairs - each)) for each in tied]
    return max(-1.0, min(1.0, float(balance / free[0] / free[1])))


def _pairs(counts: NDArray[Any]) -> int:
    return sum(count * (count - 1) // 2 for count in counts.tolist())


def area(values: ArrayLike, right: NDArray[np.bool_]) -> float | None:
    """How often a right one has a higher value than a wrong one, equal ones counted half.

    The area under the ROC curve, or Mann and Whitney's U (1947) over the number of pairs.

    Args:
        values: [n]
        right: [n]

    Returns:
        0.5 where the values say nothing; None where all are right, or none.
    """
    hits = int(right.sum())
    misses = len(right) - hits
    if not hits or not misses:
        return None
    sums = float(average_ranks(values)[right].sum())
    return (sums - hits * (hits + 1) / 2) / (hits * misses)


def area_by_group(
    values: ArrayLike, right: NDArray[np.bool_], groups: NDArray[np.intp]
) -> Interval:
    """`area` with its interval, for observations that come in groups, one group a task.

    The variance is that of Obuchowski (1997) for clustered data: of the sums over each group of
    the structural components of DeLong et al. (1988), which are a right one's share of wrong ones
    below it and a wrong one's share of right ones above it.

    Args:
        values: [n]
        right: [n]
        groups: [n] number of the group.
    """
    found, n = area(values, right), len(right)
    if found is None:
        return Interval(None, None, None, n, "none: all right, or none")
    given = np.asarray(values, np.float64)
    overall = average_ranks(given)
    parts = np.zeros(n)
    for chosen, sign in ((right, 1.0), (~right, -1.0)):
        beaten = (overall[chosen] - average_ranks(given[chosen])) / (~chosen).sum()
        parts[chosen] = (sign * (beaten - (found if sign > 0 else 1 - found))) / chosen.sum()
    # Of a wrong one the component is the share of right ones above: 1 less what it beats.
    sums = np.bincount(groups, parts)[np.bincount(groups) > 0]
    variance = float((sums**2).sum()) * len(sums) / max(1, len(sums) - 1)
    if len(sums) < 2 or variance <= 1e-30:
        return Interval(found, None, None, n, "none: no spread between tasks")
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * float(np.sqrt(variance))
    low, high = max(0.0, found - half), min(1.0, found + half)
    return Interval(found, low, high, n, "Obuchowski by task")
